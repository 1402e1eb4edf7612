"""What a run keeps of every training: a file of weights, and in its notes how the training went.

Comes in: what a trainer fitted. Goes out: the decoder's file, read back without its weights or with them, and
losses as JSON has them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungfast.runs import RunFolder, read_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from lungfast.trained.trainer import Fitted

_LOSSES = ("train_loss", "val_loss")
_PREFIX = "mask_decoder."
"""Before a decoder's names in its file, as in a checkpoint of segment-anything."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The account of a decoder or U-Net of the run; its weights are in the run's file of that key.

    Losses are an epoch's, NaN where it was not validated or diverged.
    """

    key: str
    best_epoch: int
    status: str
    train_loss: tuple[float, ...]
    val_loss: tuple[float, ...]

    @classmethod
    def of(cls, fitted: Fitted) -> Trained:
        losses = {name: getattr(fitted, name) for name in _LOSSES}
        return cls(key=fitted.key, best_epoch=fitted.best_epoch, status=fitted.status, **losses)

    @classmethod
    def read(cls, path: Path) -> Trained:
        """From the file of that key; RunError where it cannot be read."""
        _, notes = read_tensors(path, names=())
        losses = {name: tuple(math.nan if v is None else v for v in notes[name]) for name in _LOSSES}
        return cls(key=path.stem, best_epoch=notes["best_epoch"], status=notes["status"], **losses)

    def losses(self) -> dict[str, list[float | None]]:
        """As JSON has them, which knows no NaN."""
        return {name: [_null(value) for value in getattr(self, name)] for name in _LOSSES}

    def notes(self) -> dict[str, Any]:
        return {"best_epoch": self.best_epoch, "status": self.status} | self.losses()


def keep_decoder(run: RunFolder, fitted: Fitted) -> Trained:
    """Write a decoder's file, its weights named as in a checkpoint of segment-anything."""
    return keep_unet(run, replace(fitted, state={_PREFIX + name: one for name, one in fitted.state.items()}))


def keep_unet(run: RunFolder, fitted: Fitted) -> Trained:
    """Write a U-Net's file, its weights named as they are."""
    account = Trained.of(fitted)
    run.write_tensors(run.decoder_path(fitted.key), fitted.state, account.notes())
    return account


def decoder_state(path: Path) -> dict[str, Tensor]:
    """A kept decoder's weights under segment-anything's MaskDecoder names."""
    tensors, _ = read_tensors(path)
    return {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()}


def _null(value: float) -> float | None:
    """None for NaN and the infinities, which JSON has not."""
    return float(value) if math.isfinite(value) else None
