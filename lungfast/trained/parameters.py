"""Which numbers of a mask decoder are trained, and where they lie in memory.

Comes in: a segment-anything ``MaskDecoder`` state dict. Goes out: a :class:`Layout` that packs the trained
part of it into one flat row, so that a stack of K decoders is one (K, L) matrix: one pass casts it to
bfloat16, one asks whether a gradient is finite, one is the Adam step, and a decoder is a contiguous row.

Not trained, and so not packed:

* key biases of every attention: q·(k + b) = q·k + q·b adds the same to all keys of a query and cancels in the
  softmax. Their gradient is zero; what autograd returns is rounding noise, which Adam turns into whole steps.
* the three hypernetworks of the multimask outputs and the IoU head: the single-mask loss does not reach them,
  and Adam's L2 decay would move them all the same (86 % in 50 steps at wd 0.1, lr 1e-3).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lungfast.errors import CheckpointError
from lungfast.records import Size

HEADS = 8
"""Heads of every attention: not stored in a state dict, and 8 in every published SAM."""
MASK_TOKEN = 0
"""The mask token of ``multimask_output=False``."""
OUTPUT_TOKENS = 5
"""One IoU token and four mask tokens, in front of the prompt."""
HIGH_RES = "conv_s1.weight"
"""SAM 2's name for the convolution (64, channels, 1, 1) that adds high-resolution features to the first
upscaled maps. segment-anything's decoder has none; its bias would be another output_upscaling.0.bias."""
_UPSCALED = "output_upscaling.0.weight"
_ALIGNMENT = 64  # elements: every parameter starts on a cache line, whatever the dtype

_UNREACHED = re.compile(r"k_proj\.bias$|^output_hypernetworks_mlps\.[1-9]\d*\.|^iou_prediction_head\.")


def with_high_res(state: Mapping[str, Tensor], fine_channels: int) -> dict[str, Tensor]:
    """A decoder that also reads ``fine_channels`` high-resolution channels a token, and says what it said
    before: the new weights are zero until they are trained."""
    _, upscaled, *cells = state[_UPSCALED].shape
    return {**state, HIGH_RES: torch.zeros(upscaled, fine_channels // math.prod(cells), 1, 1)}


def is_trained(name: str) -> bool:
    """Does the single-mask loss reach this parameter with a gradient that is not identically zero?"""
    return _UNREACHED.search(name) is None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Names, shapes and offsets of the trained parameters in a flat row of ``length`` elements.

    The row has gaps (parameters are aligned); they hold zeros, have zero gradients and stay zero.
    """

    shapes: Mapping[str, tuple[int, ...]]
    offsets: Mapping[str, int]
    length: int

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> Layout:
        """The layout of a decoder's state dict; raises CheckpointError where it is not a mask decoder."""
        _check_is_decoder(state)
        shapes = {name: tuple(state[name].shape) for name in state if is_trained(name)}
        offsets, end = {}, 0
        for name, shape in shapes.items():
            offsets[name] = end
            end += -(-math.prod(shape) // _ALIGNMENT) * _ALIGNMENT
        return cls(shapes=shapes, offsets=offsets, length=end)

    def views(self, flat_KL: Tensor) -> dict[str, Tensor]:
        """Every parameter as a (K, ...) view into the flat matrix."""
        return {
            name: flat_KL[:, self.offsets[name] : self.offsets[name] + math.prod(shape)].view(-1, *shape)
            for name, shape in self.shapes.items()
        }

    def pack(self, state: Mapping[str, Tensor], row_L: Tensor) -> None:
        """Write a decoder's trained parameters into its row; shapes must be those of the layout."""
        views = self.views(row_L[None])
        for name in state:
            if is_trained(name) and name not in views:
                raise CheckpointError(
                    f"mask decoder parameter {name} has no place in the stack",
                    found=f"a stack of decoders with {len(views)} parameters, without it",
                    expected="decoders of one kind: all with high-resolution features, or none",
                )
        for name, view in views.items():
            if name not in state or tuple(state[name].shape) != self.shapes[name]:
                raise CheckpointError(
                    f"mask decoder parameter {name} does not fit the stack",
                    found="none" if name not in state else str(tuple(state[name].shape)),
                    expected=str(self.shapes[name]),
                )
            view[0].copy_(state[name].detach())

    def unpack(self, row_L: Tensor) -> dict[str, Tensor]:
        """Copies of a row's parameters: float32 on the CPU."""
        views = self.views(row_L[None])
        return {
            name: view[0].detach().to("cpu", torch.float32, copy=True).contiguous()
            for name, view in views.items()
        }


def _check_is_decoder(state: Mapping[str, Tensor]) -> None:
    needed = (
        "iou_token.weight",
        "mask_tokens.weight",
        "transformer.layers.1.norm4.weight",
        "output_hypernetworks_mlps.0.layers.2.weight",
        "output_upscaling.3.weight",
    )
    for name in needed:
        if name not in state:
            raise CheckpointError(
                "these are not the weights of a SAM mask decoder",
                found=f"no {name} among {len(state)} tensors",
                expected="the names of segment_anything's MaskDecoder, without a prefix",
            )


def to_token_major(image_hw: Tensor, grid: Size) -> Tensor:
    """(..., h, w) -> (..., N*16): the 4x4 low-resolution pixels of an image token side by side.

    The order is the one in which two transposed convolutions, done as matrix products, emit pixels:
    (Eh, Ew, dy1, dx1, dy2, dx2) with row 4*Eh + 2*dy1 + dy2. Losses do not care about the order of pixels, so
    the small boolean targets are permuted once instead of every logit.
    """
    rows, columns = grid
    is_bytes = image_hw.element_size() == 1
    pairs = image_hw.contiguous().view(torch.int16) if is_bytes else image_hw  # neighbours move together
    cells = pairs.reshape(*image_hw.shape[:-2], rows, 2, 2, columns, 2, -1)
    ordered = cells.movedim((-6, -3, -5, -2, -4, -1), (-6, -5, -4, -3, -2, -1)).flatten(-6)
    return ordered.view(image_hw.dtype) if is_bytes else ordered


def from_token_major(pixels: Tensor, grid: Size) -> Tensor:
    """The inverse of :func:`to_token_major`: (..., N*16) -> (..., h, w)."""
    rows, columns = grid
    cells = pixels.reshape(*pixels.shape[:-1], rows, columns, 2, 2, 2, 2)
    cells = cells.movedim((-6, -5, -4, -3, -2, -1), (-6, -3, -5, -2, -4, -1))
    return cells.flatten(-6, -4).flatten(-3, -1)
