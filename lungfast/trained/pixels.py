"""The decoder's pixels by hand, forward and backward: two transposed convolutions, and the loss.

Comes in: image tokens (R, N, C) of one decoder on a CPU, and the hypernetwork's numbers. Goes out: logits, or
losses with their gradients. Why: N*16 pixels of 32 channels are the largest tensor of a step. They are made a
part at a time: some images, or some tokens of a large one. Where losses are asked for, an image goes forward
and backward before the next one is looked at, so that its pixels are still in the cache (:func:`pixel_loss`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lungfast.trained.cutting import slices
from lungfast.trained.norms import norm, norm_backward, wide_dtype

PART_BYTES = 2 << 20
"""16 pixels of 32 channels of the image tokens worked on at once: 1024 tokens in fp32, 2048 in bf16."""

NORM_EPS = 1e-6
"""Of LayerNorm2d in segment-anything's upscaling."""

_aten = torch.ops.aten
LossOf = Callable[[slice, Tensor], Tensor]


@dataclass(frozen=True)
class _Part:
    """Some images, or tokens of one, in rows: both products, and what the backward pass reads besides."""

    low: Tensor
    normed: Tensor
    statistics: Sequence[Tensor]
    middle: Tensor
    high: Tensor
    pixels: Tensor


class _Upscaling:
    """The weights, as :func:`pixel_logits` takes them, and the sums of their gradients."""

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self.weights = weights
        self.first, self.first_bias, *self.norm, self.second, self.second_bias = weights[:6]
        self.skip = weights[6:]
        self.first_OC, self.second_OC = self.first.T.contiguous(), self.second.T.contiguous()
        self.sums = [torch.zeros_like(weight, dtype=wide_dtype(weight)) for weight in weights]

    def grads(self) -> list[Tensor]:
        return [total.to(weight.dtype) for total, weight in zip(self.sums, self.weights, strict=True)]

    def part(self, low: Tensor, high: Tensor | None = None) -> _Part:
        """From the first product, and the second where it was kept."""
        normed, *statistics = norm(low.view(-1, len(self.norm[1])), self.norm, NORM_EPS)
        middle = F.gelu(normed)
        if high is None:
            high = F.linear(middle, self.second_OC, self.second_bias)
        return _Part(low, normed, statistics, middle, high, F.gelu(high))

    def forward(
        self, image_GNC: Tensor, fine_GYc: Tensor | None, hyper_GO: Tensor, logits_GX: Tensor
    ) -> Iterator[_Part]:
        """Logits into ``logits_GX``, part by part."""
        for tokens, pixels in _parts(image_GNC):
            low = F.linear(image_GNC[:, tokens].flatten(0, 1), self.first_OC, self.first_bias)
            if fine_GYc is not None:
                low.view(-1, len(self.norm[1])).addmm_(_rows(fine_GYc, tokens), self.skip[0])
            one = self.part(low)
            values_GXO = one.pixels.view(len(hyper_GO), -1, hyper_GO.shape[1])
            logits_GX[:, pixels] = torch.bmm(values_GXO, hyper_GO[..., None]).squeeze(2)
            yield one

    def backward(
        self,
        grad_GX: Tensor,
        image: tuple[Tensor, Tensor, Tensor | None],
        hyper_GO: Tensor,
        kept: Sequence[_Part],
    ) -> Tensor:
        """The gradient of the hyper, (G, O); that of the weights is added to the sums, that of the image
        written to the second of ``image``, whose first it is of; the third are the fine features."""
        image_GNC, image_grad, fine_GYc = image
        samples, channels = hyper_GO.shape
        pixels_a_row = self.second.shape[1] // channels
        # a row of `high` is several pixels: their numbers times this are the gradients of all its channels
        one_each = torch.eye(pixels_a_row, dtype=hyper_GO.dtype)
        spread = torch.einsum("pq,go->gpqo", one_each, hyper_GO).flatten(2)
        hyper_grad = torch.zeros_like(hyper_GO, dtype=wide_dtype(hyper_GO))
        for (tokens, pixels), one in zip(_parts(image_GNC), kept, strict=True):
            grad_Gxp = grad_GX[:, pixels].reshape(samples, -1, pixels_a_row)
            hyper_grad += _of_each_pixel(grad_Gxp, one.pixels.view(samples, -1, one.pixels.shape[1]))
            high_grad = _aten.gelu_backward(torch.bmm(grad_Gxp, spread).flatten(0, 1), one.high)
            normed_grad = _aten.gelu_backward(torch.mm(high_grad, self.second.T), one.normed)
            low = one.low.view(one.normed.shape)
            low_grad, *norm_grads = norm_backward(normed_grad, low, one.statistics, self.norm)
            skip = [] if fine_GYc is None else [torch.mm(_rows(fine_GYc, tokens).T, low_grad)]
            low_grad = low_grad.view(one.low.shape)
            torch.mm(low_grad, self.first.T, out=image_grad[:, tokens].flatten(0, 1))
            first = (torch.mm(image_GNC[:, tokens].flatten(0, 1).T, low_grad), low_grad.sum(0))
            second = (torch.mm(one.middle.T, high_grad), high_grad.sum(0))
            for total, found in zip(self.sums, (*first, *norm_grads, *second, *skip), strict=True):
                total.add_(found)
        return hyper_grad


class _PixelLogits(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, fine_RYc: Tensor | None, image_RNC: Tensor, hyper_RO: Tensor, *weights: Tensor
    ) -> Tensor:
        upscaling = _Upscaling(weights)
        logits_RX = image_RNC.new_empty(len(image_RNC), 16 * image_RNC.shape[1])
        lows, highs = [], []
        for g in _groups(image_RNC):
            for one in upscaling.forward(image_RNC[g], _of(fine_RYc, g), hyper_RO[g], logits_RX[g]):
                if any(ctx.needs_input_grad):
                    lows.append(one.low)
                    highs.append(one.high)
        ctx.save_for_backward(fine_RYc, image_RNC, hyper_RO, *weights, *lows, *highs)
        ctx.n_weights = len(weights)
        return logits_RX

    @staticmethod
    def backward(ctx: Any, logits_grad: Tensor) -> tuple[Tensor | None, ...]:
        fine, image, hyper, *saved = ctx.saved_tensors
        upscaling, sides = _Upscaling(saved[: ctx.n_weights]), saved[ctx.n_weights :]
        pairs = zip(sides[: len(sides) // 2], sides[len(sides) // 2 :], strict=True)
        image_grad, hyper_grad = torch.empty_like(image), torch.empty_like(hyper)
        for g in _groups(image):
            kept = [upscaling.part(*pair) for pair in itertools.islice(pairs, len(_parts(image[g])))]
            sides_of_image = (image[g], image_grad[g], _of(fine, g))
            hyper_grad[g] = upscaling.backward(logits_grad[g], sides_of_image, hyper[g], kept)
        return None, image_grad, hyper_grad, *upscaling.grads()


def pixel_logits(
    image_RNC: Tensor, hyper_RO: Tensor, fine_RYc: Tensor | None, weights: Sequence[Tensor]
) -> Tensor:
    """(R, N*16) logits of one decoder: convolution, norm, GELU, convolution, GELU, product with ``hyper_RO``.

    ``weights``: matrix (C, 4*64) and bias of the first convolution, norm weight and bias, matrix (64, 4*32)
    and bias of the second. ``fine_RYc``, (R, N*4, c) if there, is multiplied by a seventh, (c, 64), and added
    to what the first convolution gives; no gradient of it is returned.
    """
    out: Tensor = _PixelLogits.apply(fine_RYc, image_RNC, hyper_RO, *weights)
    return out


class _PixelLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, loss_of: LossOf, fine: Tensor | None, image: Tensor, hyper: Tensor, *weights: Tensor
    ) -> Tensor:
        upscaling, losses = _Upscaling(weights), []
        image_grad, hyper_grad = torch.empty_like(image), torch.empty_like(hyper)
        for g in _groups(image):
            logits_GX = image.new_empty(len(image[g]), 16 * image.shape[1])
            fine_GYc = _of(fine, g)
            kept = list(upscaling.forward(image[g], fine_GYc, hyper[g], logits_GX))
            with torch.enable_grad():
                losses_G = loss_of(g, logits_GX.requires_grad_())
                (grad_GX,) = torch.autograd.grad(losses_G.sum(), logits_GX)
            losses.append(losses_G.detach())
            sides_of_image = (image[g], image_grad[g], fine_GYc)
            hyper_grad[g] = upscaling.backward(grad_GX, sides_of_image, hyper[g], kept)
        ctx.grads = (image_grad, hyper_grad, *upscaling.grads())
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *ctx.grads


def pixel_loss(
    loss_of: LossOf,
    image_RNC: Tensor,
    hyper_RO: Tensor,
    fine_RYc: Tensor | None,
    weights: Sequence[Tensor],
) -> Tensor:
    """Losses (R,) of the logits of :func:`pixel_logits`; their *sum* is to be differentiated.

    ``loss_of(rows, logits_GX)`` gives those of some images, whose gradients are then made on the way.
    """
    out: Tensor = _PixelLoss.apply(loss_of, fine_RYc, image_RNC, hyper_RO, *weights)
    return out


def _of(fine_RYc: Tensor | None, rows: slice) -> Tensor | None:
    return None if fine_RYc is None else fine_RYc[rows]


def _rows(fine_GYc: Tensor, tokens: slice) -> Tensor:
    """The cells of some tokens of every image, four a token."""
    return fine_GYc[:, 4 * tokens.start : 4 * tokens.stop].flatten(0, 1)


def _of_each_pixel(grad_Gxp: Tensor, values_Gxy: Tensor) -> Tensor:
    """The sum over pixels of a number times its pixel's channels, (G, channels).

    ``values`` hold the channels of several pixels in a row: their products with all of the row's numbers, of
    which the diagonal is wanted, take a sixth of the time of a product with one number a row.
    """
    pixels = grad_Gxp.shape[2]
    products = torch.bmm(grad_Gxp.mT, values_Gxy).view(len(grad_Gxp), pixels, pixels, -1)
    return products.diagonal(dim1=1, dim2=2).sum(2)


def _groups(image_RNC: Tensor) -> list[slice]:
    """Images that are worked on together: several small ones, or one."""
    return slices(len(image_RNC), max(1, _part_tokens(image_RNC) // image_RNC.shape[1]))


def _parts(image_GNC: Tensor) -> list[tuple[slice, slice]]:
    """Tokens of a group that are worked on at once, and their pixels; all where images are several."""
    n = image_GNC.shape[1]
    size = n if len(image_GNC) > 1 else _part_tokens(image_GNC)
    return list(zip(slices(n, size), slices(16 * n, 16 * size), strict=True))


def _part_tokens(image: Tensor) -> int:
    return PART_BYTES // (16 * 32 * image.element_size())
