"""On a GPU: the launches of a piece, some thousand small kernels, recorded once and replayed as one.

Comes in: the weights of a piece's decoders, (D, L) in the type of the arithmetic, and its data. Goes out:
losses (D,) and gradients (D, L), at least float32. Why: nine decoders and eight images of SAM's size take
19 ms on an H200 if they are recorded, 51 ms if the interpreter launches every kernel (11 and 37 ms compiled).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import TypeVar

import torch
from torch import Tensor

from lungfast.trained.inputs import Inputs
from lungfast.trained.norms import wide_dtype
from lungfast.trained.parameters import Layout
from lungfast.trained.piece import Piece

Part = TypeVar("Part", Piece, Inputs)
Gradients = Callable[[Mapping[str, Tensor], Piece], tuple[Tensor, Mapping[str, Tensor]]]
WARM_UP = 3
"""Runs before the recording: libraries then have their workspaces."""


class Recorder:
    """Runs pieces; records anew where one of another shape comes."""

    def __init__(self, gradients: Gradients, layout: Layout) -> None:
        self._gradients, self._layout = gradients, layout
        self._recorded: _Recording | None = None

    def run(self, weights_DL: Tensor, piece: Piece) -> tuple[Tensor, Tensor]:
        """Losses and gradients; the next run overwrites them."""
        with torch.cuda.device(weights_DL.device):  # whose streams are meant where none is named
            if self._recorded is None or not self._recorded.fits(weights_DL, piece):
                self._recorded = None  # what it held goes before the next one takes as much
                self._recorded = _Recording(self._gradients, self._layout, weights_DL, piece)
            return self._recorded.run(weights_DL, piece)


class _Recording:
    """Of one piece; its inputs are copied into place, its results are overwritten by the next run."""

    def __init__(self, gradients: Gradients, layout: Layout, weights_DL: Tensor, piece: Piece) -> None:
        self._weights_DL, self._piece = weights_DL.clone(), _copied(piece)
        self.shapes = _shapes(weights_DL, piece)
        params = layout.views(self._weights_DL)
        self._grads_DL = torch.zeros_like(weights_DL, dtype=wide_dtype(weights_DL))
        sums = layout.views(self._grads_DL)

        def run() -> Tensor:
            loss_D, grads = gradients(params, self._piece)
            for name, row in sums.items():
                row.copy_(grads[name])
            return loss_D

        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss_D = run()

    def fits(self, weights_DL: Tensor, piece: Piece) -> bool:
        """Recordings are of one shape."""
        return self.shapes == _shapes(weights_DL, piece)

    def run(self, weights_DL: Tensor, piece: Piece) -> tuple[Tensor, Tensor]:
        """Losses and gradients of other weights and data of the same shapes."""
        self._weights_DL.copy_(weights_DL)
        for place, value in zip(_tensors(self._piece), _tensors(piece), strict=True):
            place.copy_(value, non_blocking=True)
        self._graph.replay()
        return self._loss_D, self._grads_DL


def _tensors(piece: Piece) -> list[Tensor]:
    values = [getattr(piece, field.name) for field in fields(piece) if field.name != "inputs"]
    inputs = [getattr(piece.inputs, field.name) for field in fields(piece.inputs)]
    return [value for value in (*values, *inputs) if isinstance(value, Tensor)]


def _shapes(weights_DL: Tensor, piece: Piece) -> list[tuple[torch.Size, torch.dtype]]:
    return [(value.shape, value.dtype) for value in (weights_DL, *_tensors(piece))]


def _copied(piece: Piece) -> Piece:
    return replace(_with_copies(piece), inputs=_with_copies(piece.inputs))


def _with_copies(part: Part) -> Part:
    values = {field.name: getattr(part, field.name) for field in fields(part)}
    copies = {name: value.contiguous().clone() for name, value in values.items() if isinstance(value, Tensor)}
    return replace(part, **copies)  # type: ignore[arg-type]
