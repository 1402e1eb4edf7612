"""The unit of training: loss and gradient of a few decoders on a few images, eager or compiled.

Comes in: a piece's weights and data. Goes out: gradients added to a sum, and the losses. All pieces of a run
have one shape, so a compiled piece is compiled once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lungfast.compute import keep_compiled
from lungfast.trained.decoder import decode, decode_losses
from lungfast.trained.inputs import Inputs
from lungfast.trained.losses import segmentation_loss
from lungfast.trained.norms import wide_dtype
from lungfast.trained.pixels import LossOf as LossOfLogits

LossOf = Callable[[Mapping[str, Tensor], "Piece"], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Data of D decoders and b images; targets are in the decoder's pixel order, ``to_token_major``.

    ``share_KB`` is each image's share of its decoder's loss (0 on padding rows), ``scale_K`` the factor of
    the loss before the backward pass (fp16), ``focal_K`` True for DiceFocal.
    """

    inputs: Inputs
    targets_GBX: Tensor
    valid_GBX: Tensor
    share_KB: Tensor
    scale_K: Tensor
    focal_K: Tensor


def piece_loss(params: Mapping[str, Tensor], piece: Piece) -> tuple[Tensor, Tensor]:
    """The scalar to differentiate and each decoder's share of its loss, (D,)."""
    if _goes_image_by_image(piece.inputs):
        scaled_B = decode_losses(params, piece.inputs, _loss_of(piece))
        return scaled_B.sum(), scaled_B.detach().sum(0, keepdim=True) / piece.scale_K
    loss_K = _shared_loss(decode(params, piece.inputs), piece).sum(1)
    return (loss_K * piece.scale_K).sum(), loss_K.detach()


def _goes_image_by_image(inputs: Inputs) -> bool:
    """Losses can be taken before all logits are there; several prompts an image are merged first."""
    return inputs.fused and inputs.tokens_KBIPC.shape[2] == 1


def _loss_of(piece: Piece) -> LossOfLogits:
    """Each image's share of the loss of one decoder, scaled, from its logits."""

    def losses(rows: slice, logits_BX: Tensor) -> Tensor:
        logits_1BX = logits_BX.to(wide_dtype(logits_BX))[None]
        loss_KB = _shared_loss(logits_1BX, piece, rows)
        return (loss_KB * piece.scale_K)[0]

    return losses


def _shared_loss(logits_KBX: Tensor, piece: Piece, rows: slice = slice(None)) -> Tensor:
    """(D, b): loss times share of the images in ``rows``, whose logits these are."""
    truth = (piece.targets_GBX[:, rows], piece.valid_GBX[:, rows])
    share_KB = piece.share_KB[:, rows]
    # selected, not multiplied: a padding row may be anything
    return torch.where(share_KB > 0, segmentation_loss(logits_KBX, *truth, piece.focal_K) * share_KB, 0.0)


class PieceRunner:
    """Runs pieces; with ``compile`` it settles on the first piece whether compilation works here."""

    def __init__(self, device: torch.device, *, compile: bool) -> None:
        self._loss: LossOf = piece_loss
        self.note = "not compiled"
        self.untried = compile
        if compile and device.type == "cpu" and not _has_compiler():
            self.note, self.untried = "eager: no C++ compiler", False
        elif compile:
            self.note = "to be compiled by the first step"

    @property
    def compiled(self) -> bool:
        """Plain torch operations are asked for: the compiler fuses them itself."""
        return self.untried or self._loss is not piece_loss

    def settle(self, params: Mapping[str, Tensor], piece: Piece) -> None:
        """Compile on a real piece, forward and backward, before the first step changes anything.

        Once, while ``untried``.
        """
        self.untried = False
        keep_compiled()
        try:
            compiled = torch.compile(piece_loss, dynamic=False, fullgraph=True)
            _gradients(compiled, params, piece)
        except torch.OutOfMemoryError:  # no fault of the compiler's
            raise
        except Exception as error:  # whatever the compiler raises, eager computes the same
            self.note = f"eager: {_first_line(error)}"
        else:
            self._loss, self.note = compiled, "compiled"

    def run(self, params: Mapping[str, Tensor], piece: Piece) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses (D,) and the gradient of every parameter."""
        return _gradients(self._loss, params, piece)


def _gradients(
    loss_of: LossOf, params: Mapping[str, Tensor], piece: Piece
) -> tuple[Tensor, dict[str, Tensor]]:
    leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
    with torch.enable_grad():
        scalar, loss_K = loss_of(leaves, piece)
    grads = torch.autograd.grad(scalar, list(leaves.values()))
    return loss_K, dict(zip(leaves, grads, strict=True))


def _has_compiler() -> bool:
    """A C++ compiler that torch's code generator would find (it honours CXX)."""
    names = [os.environ["CXX"].split()[0]] if os.environ.get("CXX") else ["g++", "clang++", "c++", "cl"]
    return any(shutil.which(name) for name in names)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
