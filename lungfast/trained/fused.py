"""The image side of the decoder by hand, forward and backward, for the CPU without a compiler.

Comes in: what attention.py and decoder.py otherwise give to plain torch operations. Goes out: the same values
and gradients, to rounding. Why: with N = 4096 image tokens the passes over (N, C) cost as much as the
products, and autograd makes many of them: it adds up five gradients of the image a block, some of them
transposed. Here the gradients of x and of x + encoding come from one product, which adds to what is there
already. The pixels are in pixels.py. torch.compile on the plain operations takes 100 s to compile and needs a
compiler.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lungfast.trained.cutting import slices
from lungfast.trained.norms import norm, norm_backward

GROUP_BYTES = 2 << 20
"""Image tokens of samples that share an operation: 4 samples of 32x32 tokens in bf16, one of SAM's size. One
by one, small products run at two thirds of the rate, and the calls cost as much as they do."""

_aten = torch.ops.aten


class _Attend(torch.autograd.Function):
    """softmax over the image of columns · (image + encoding)ᵀ, times the image: (S, X, C); and the image.

    Whoever reads the image next takes it from here: its gradient then arrives here, and is added to by a
    product instead of by a pass of its own over (S, N, C).
    """

    @staticmethod
    def forward(ctx: Any, columns_SXC: Tensor, image_SNC: Tensor, position_SNC: Tensor) -> Any:
        weights_SXN = image_SNC.new_empty(*columns_SXC.shape[:2], image_SNC.shape[1])
        seen_SXC = torch.empty_like(columns_SXC)
        for s in _groups(image_SNC):
            logits_GXN = torch.bmm(columns_SXC[s], position_SNC[s].mT)
            torch.softmax(logits_GXN, 2, out=weights_SXN[s])
            torch.bmm(weights_SXN[s], image_SNC[s], out=seen_SXC[s])
        ctx.save_for_backward(columns_SXC, image_SNC, position_SNC, weights_SXN)
        return seen_SXC, image_SNC.view_as(image_SNC) if ctx.needs_input_grad[1] else None

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        columns, image, position, weights = ctx.saved_tensors
        seen_grad, image_grad = grads
        columns_grad = torch.empty_like(columns)
        for s in _groups(image):
            weights_grad = torch.bmm(seen_grad[s], image[s].mT)
            logits_grad = _aten._softmax_backward_data(weights_grad, weights[s], 2, weights.dtype)
            torch.bmm(logits_grad, position[s], out=columns_grad[s])
            if image_grad is not None:
                left, right = (
                    torch.cat((weights[s], logits_grad), 1),
                    torch.cat((seen_grad[s], columns[s]), 1),
                )
                image_grad[s].baddbmm_(left.mT, right)  # in place: nobody else has it
        return columns_grad, image_grad, None


def attend(columns_SXC: Tensor, image_SNC: Tensor, position_SNC: Tensor) -> tuple[Tensor, Tensor]:
    """Token -> image attention, absorbed: what the tokens see (S, X, C), and the image for its next reader.

    ``position_SNC`` is the image plus a constant; no gradient is returned for it, the image's includes it.
    The next reader's gradient of the image is overwritten by ours.
    """
    seen_SXC, next_SNC = _Attend.apply(columns_SXC, image_SNC, position_SNC)
    return seen_SXC, image_SNC if next_SNC is None else next_SNC


class _Update(torch.autograd.Function):
    """norm(image + softmax over the tokens of (columns · positionᵀ + bias), transposed, times rows), and the
    same with the encoding added."""

    @staticmethod
    def forward(
        ctx: Any, tokens: tuple[int, int], columns: Tensor, bias: Tensor, rows: Tensor, *rest: Tensor
    ) -> tuple[Tensor, Tensor]:
        image, position, encoding, weight, shift = rest
        n_users, n_tokens = tokens
        samples, n, channels = image.shape
        summed = image.new_empty(samples, n_users, n, channels)
        attention = image.new_empty(samples, n_users, columns.shape[1] // n_users, n)
        for s in _groups(image):
            grouped = torch.baddbmm(bias[s][..., None], columns[s], position[s].mT).view(-1, n_tokens, n)
            torch.softmax(grouped, 1, out=attention[s].view(grouped.shape))
            for user in range(n_users):
                torch.baddbmm(image[s], attention[s, user].mT, rows[s, user], out=summed[s, user])
        summed = summed.flatten(0, 1)
        out, *statistics = norm(summed, (weight, shift), 1e-5)
        there = out + encoding
        ctx.save_for_backward(columns, rows, image, position, weight, shift, summed, attention, *statistics)
        ctx.n_tokens = n_tokens
        ctx.mark_non_differentiable(there)
        ctx.set_materialize_grads(False)
        return out, there

    @staticmethod
    def backward(ctx: Any, out_grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        columns, rows, image, position, weight, shift, summed, attention, *statistics = ctx.saved_tensors
        n_users, n = attention.shape[1], attention.shape[3]
        columns_grad, rows_grad = torch.empty_like(columns), torch.empty_like(rows)
        bias_grad = columns.new_empty(columns.shape[:2])
        summed_grad, *norm_grads = norm_backward(out_grad, summed, statistics, (weight, shift))
        summed_grad = summed_grad.view(-1, n_users, *summed_grad.shape[1:])
        for s in _groups(image):
            attention_grad = torch.empty_like(attention[s])
            for user in range(n_users):
                torch.bmm(attention[s, user], summed_grad[s, user], out=rows_grad[s, user])
                torch.bmm(rows[s, user], summed_grad[s, user].mT, out=attention_grad[:, user])
            grouped = (-1, ctx.n_tokens, n)
            logits_grad = _aten._softmax_backward_data(
                attention_grad.view(grouped), attention[s].view(grouped), 1, attention.dtype
            ).view(len(attention_grad), -1, n)
            torch.bmm(logits_grad, position[s], out=columns_grad[s])
            torch.sum(logits_grad, 2, out=bias_grad[s])
            if ctx.needs_input_grad[4]:  # that of all users, in the place of the first's
                total = summed_grad[s, 0]
                for user in range(1, n_users):
                    total += summed_grad[s, user]
                total.baddbmm_(logits_grad.mT, columns[s])
        image_grad = summed_grad[:, 0] if ctx.needs_input_grad[4] else None
        grads = (found.to(w.dtype) for found, w in zip(norm_grads, (weight, shift), strict=True))
        return None, columns_grad, bias_grad, rows_grad, image_grad, None, None, *grads


def update(
    columns_SXC: Tensor,
    bias_SX: Tensor,
    rows_SJxC: Tensor,
    image: tuple[Tensor, Tensor, Tensor],
    norm: tuple[Tensor, Tensor],
    n_tokens: int,
) -> tuple[Tensor, Tensor]:
    """Image -> token attention, absorbed, with residual and layer norm: (S*J, N, C) for J users an image, and
    the same plus the encoding.

    ``columns_SXC`` holds X = J*heads*T rows, ``rows_SJxC`` the same as (S, J, heads*T, C); ``image`` is the
    image tokens, the same plus the encoding (without gradient, as in :func:`attend`), and the encoding.
    """
    counts = (rows_SJxC.shape[1], n_tokens)
    out: tuple[Tensor, Tensor] = _Update.apply(counts, columns_SXC, bias_SX, rows_SJxC, *image, *norm)
    return out


def _groups(image_SNC: Tensor) -> list[slice]:
    """Samples that are worked on together, while they lie in the cache."""
    samples, n, channels = image_SNC.shape
    return slices(samples, max(1, GROUP_BYTES // (n * channels * image_SNC.element_size())))
