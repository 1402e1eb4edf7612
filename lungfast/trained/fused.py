"""The image side of the decoder by hand, forward and backward, for the CPU without a compiler.

Comes in: what attention.py and decoder.py otherwise give to plain torch operations. Goes out: the same values
and gradients, to rounding. Why: with N = 4096 image tokens the passes over (N, C) and (N*16, 32) cost as much
as the products, and autograd makes many of them: it adds up five gradients of the image a block, some of them
transposed, and sends the pixels through memory eight times. Here an image is worked on while it lies in the
cache, the gradients of x and of x + encoding come from one product, and pixels are made 1024 tokens at a
time. torch.compile on the plain operations takes 100 s to compile and needs a compiler.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

GROUP_BYTES = 2 << 20
"""Image tokens of samples that share an operation: 4 samples of 32x32 tokens in bf16, one of SAM's size. One
by one, small products run at two thirds of the rate, and the calls cost as much as they do."""
SLICE_BYTES = 2 << 20
"""16 pixels of 32 channels of the image tokens worked on at once: 1024 tokens in fp32, 2048 in bf16."""

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
        seen_grad, total = grads
        columns_grad = torch.empty_like(columns)
        image_grad = torch.empty_like(image) if ctx.needs_input_grad[1] else None
        for s in _groups(image):
            weights_grad = torch.bmm(seen_grad[s], image[s].mT)
            logits_grad = _aten._softmax_backward_data(weights_grad, weights[s], 2, weights.dtype)
            torch.bmm(logits_grad, position[s], out=columns_grad[s])
            if image_grad is not None:
                left, right = (
                    torch.cat((weights[s], logits_grad), 1),
                    torch.cat((seen_grad[s], columns[s]), 1),
                )
                torch.baddbmm(total[s], left.mT, right, out=image_grad[s])
        return columns_grad, image_grad, None


def attend(columns_SXC: Tensor, image_SNC: Tensor, position_SNC: Tensor) -> tuple[Tensor, Tensor]:
    """Token -> image attention, absorbed: what the tokens see (S, X, C), and the image for its next reader.

    ``position_SNC`` is the image plus a constant; no gradient is returned for it, the image's includes it.
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
        out, there, summed = (image.new_empty(samples, n_users, n, channels) for _ in range(3))
        attention = image.new_empty(samples, n_users, columns.shape[1] // n_users, n)
        statistics = []
        for s in _groups(image):
            grouped = torch.baddbmm(bias[s][..., None], columns[s], position[s].mT).view(-1, n_tokens, n)
            torch.softmax(grouped, 1, out=attention[s].view(grouped.shape))
            for user in range(n_users):
                summed[s, user] = torch.baddbmm(image[s], attention[s, user].mT, rows[s, user])
            normed, *found = _norm(summed[s], weight, shift, 1e-5)
            out[s] = normed
            torch.add(normed, encoding, out=there[s])
            statistics += found
        ctx.save_for_backward(columns, rows, image, position, weight, shift, summed, attention, *statistics)
        ctx.n_tokens = n_tokens
        there = there.flatten(0, 1)
        ctx.mark_non_differentiable(there)
        return out.flatten(0, 1), there

    @staticmethod
    def backward(ctx: Any, out_grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        columns, rows, image, position, weight, shift, summed, attention, *statistics = ctx.saved_tensors
        n_users, n = attention.shape[1], attention.shape[3]
        out_grad = out_grad.view(summed.shape)
        columns_grad, rows_grad = torch.empty_like(columns), torch.empty_like(rows)
        bias_grad = columns.new_empty(columns.shape[:2])
        image_grad = torch.empty_like(image) if ctx.needs_input_grad[4] else None
        weight_grad, shift_grad = (torch.zeros_like(w, dtype=_sum_dtype(w)) for w in (weight, shift))
        for g, s in enumerate(_groups(image)):
            summed_grad, w_grad, s_grad = _norm_backward(
                out_grad[s], summed[s], statistics[2 * g : 2 * g + 2], (weight, shift)
            )
            weight_grad += w_grad
            shift_grad += s_grad
            attention_grad = torch.empty_like(attention[s])
            for user in range(n_users):
                rows_grad[s, user] = torch.bmm(attention[s, user], summed_grad[:, user])
                attention_grad[:, user] = torch.bmm(rows[s, user], summed_grad[:, user].mT)
            grouped = (-1, ctx.n_tokens, n)
            logits_grad = _aten._softmax_backward_data(
                attention_grad.view(grouped), attention[s].view(grouped), 1, attention.dtype
            ).view(len(summed_grad), -1, n)
            torch.bmm(logits_grad, position[s], out=columns_grad[s])
            torch.sum(logits_grad, 2, out=bias_grad[s])
            if image_grad is not None:
                total = summed_grad[:, 0] if n_users == 1 else summed_grad.sum(1)
                torch.baddbmm(total, logits_grad.mT, columns[s], out=image_grad[s])
        grads = (weight_grad.to(weight.dtype), shift_grad.to(shift.dtype))
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


class _Pixels(torch.autograd.Function):
    """Two transposed convolutions with their norm and GELUs, and the product with the hypernetwork."""

    @staticmethod
    def forward(ctx: Any, image_RNC: Tensor, hyper_RO: Tensor, *weights: Tensor) -> Tensor:
        first, first_bias, norm_weight, norm_bias, second, second_bias = weights
        samples, n, _ = image_RNC.shape
        first_OC, second_OC = first.T.contiguous(), second.T.contiguous()
        logits_RX = image_RNC.new_empty(samples, 16 * n)
        lows, highs = [], []
        for r, part in _slices(image_RNC):
            low = F.linear(image_RNC[r, part], first_OC, first_bias)
            normed, _, _ = _norm(low.view(-1, len(norm_bias)), norm_weight, norm_bias, 1e-6)
            high = F.linear(F.gelu(normed), second_OC, second_bias)
            pixels = F.gelu(high).view(-1, hyper_RO.shape[1])
            logits_RX[r, 16 * part.start : 16 * part.stop] = torch.mv(pixels, hyper_RO[r])
            lows.append(low)
            highs.append(high)
        ctx.save_for_backward(image_RNC, hyper_RO, *weights, *lows, *highs)
        return logits_RX

    @staticmethod
    def backward(ctx: Any, logits_grad: Tensor) -> tuple[Tensor, ...]:
        image, hyper, *saved = ctx.saved_tensors
        weights, kept = saved[:6], saved[6:]
        first, _, norm_weight, norm_bias, second, _ = weights
        sums = [torch.zeros_like(w, dtype=_sum_dtype(w)) for w in weights]
        image_grad = torch.empty_like(image)
        hyper_grad = torch.zeros_like(hyper, dtype=_sum_dtype(hyper))
        slices = _slices(image)
        for (r, part), rows, high in zip(slices, kept[: len(slices)], kept[len(slices) :], strict=True):
            pixel_grad = logits_grad[r, 16 * part.start : 16 * part.stop]
            hyper_grad[r] += _of_each_pixel(pixel_grad, F.gelu(high), hyper.shape[1])
            high_grad = (pixel_grad[:, None] * hyper[r]).view(high.shape)
            high_grad = _aten.gelu_backward(high_grad, high)
            low = rows.view(-1, len(norm_bias))
            normed, *statistics = _norm(low, norm_weight, norm_bias, 1e-6)
            sums[4] += torch.mm(F.gelu(normed).T, high_grad)
            sums[5] += high_grad.sum(0)
            normed_grad = _aten.gelu_backward(torch.mm(high_grad, second.T), normed)
            low_grad, weight_grad, bias_grad = _norm_backward(
                normed_grad, low, statistics, (norm_weight, norm_bias)
            )
            sums[2] += weight_grad
            sums[3] += bias_grad
            low_grad = low_grad.view(-1, first.shape[1])
            sums[0] += torch.mm(image[r, part].T, low_grad)
            sums[1] += low_grad.sum(0)
            torch.mm(low_grad, first.T, out=image_grad[r, part])
        grads = [total.to(w.dtype) for total, w in zip(sums, weights, strict=True)]
        return image_grad, hyper_grad.to(hyper.dtype), *grads


def _of_each_pixel(grad_X: Tensor, values: Tensor, channels: int) -> Tensor:
    """The sum over pixels of a number times its pixel's channels, (channels,).

    ``values`` hold the channels of several pixels in a row: their products with all of the row's numbers, of
    which the diagonal is wanted, take a sixth of the time of a product with one number a row.
    """
    pixels = values.shape[1] // channels
    products = torch.mm(grad_X.view(-1, pixels).T, values).view(pixels, pixels, channels)
    return products.diagonal().sum(1)


def pixel_logits(image_RNC: Tensor, hyper_RO: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """(R, N*16) logits of one decoder: convolution, norm, GELU, convolution, GELU, product with ``hyper_RO``.

    ``weights``: matrix (C, 4*64) and bias of the first convolution, norm weight and bias, matrix (64, 4*32)
    and bias of the second.
    """
    out: Tensor = _Pixels.apply(image_RNC, hyper_RO, *weights)
    return out


def _groups(image_SNC: Tensor) -> list[slice]:
    """Samples that are worked on together, while they lie in the cache."""
    samples, n, channels = image_SNC.shape
    size = max(1, GROUP_BYTES // (n * channels * image_SNC.element_size()))
    return [slice(start, min(start + size, samples)) for start in range(0, samples, size)]


def _norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normed, mean, reciprocal deviation; with weights in float32 its backward pass is a sixth faster."""
    wide = _sum_dtype(weight)
    return torch.native_layer_norm(x, weight.shape, weight.to(wide), bias.to(wide), eps)


def _norm_backward(
    grad: Tensor, x: Tensor, statistics: Sequence[Tensor], norm: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``x``, weight and bias."""
    wide = [part.to(_sum_dtype(part)) for part in norm]
    found: tuple[Tensor, Tensor, Tensor] = _aten.native_layer_norm_backward(
        grad, x, norm[0].shape, *statistics, *wide, [True, True, True]
    )
    return found


def _slices(image_RNC: Tensor) -> list[tuple[int, slice]]:
    samples, n, _ = image_RNC.shape
    size = SLICE_BYTES // (16 * 32 * image_RNC.element_size())
    starts = range(0, n, size)
    return [(r, slice(start, min(start + size, n))) for r in range(samples) for start in starts]


def _sum_dtype(tensor: Tensor) -> torch.dtype:
    """Gradients of weights are summed over slices in at least float32."""
    return torch.promote_types(tensor.dtype, torch.float32)
