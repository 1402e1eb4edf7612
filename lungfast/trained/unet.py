"""A U-Net (MONAI's, with residual units) trained on pictures: the peer that the decoders are compared with.

Comes in: :class:`Pictures`, the images to train and validate on, a :class:`UnetConfig`. Goes out: an
:class:`EpochEnd` after every epoch, then one :class:`Fitted`; logits of any pictures. Losses, row orders and
rates are those of the decoders. In a second of one core MONAI's UNet trains 22 images of 256 px in bf16
(12 in fp32; channels_last gains nothing), its BasicUNet of the same width 5: UNet's first unit already halves
the resolution.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from lungfast.errors import UsageError
from lungfast.records import EpochEnd, Float32, Float64, Int64, LossName, PrecisionName, ScheduleName
from lungfast.trained.batches import row_order, steps_of
from lungfast.trained.losses import focal_flags, segmentation_loss
from lungfast.trained.pictures import (
    Augmentation,
    Draw,
    PictureBatch,
    Pictures,
    augmented_batch,
    plain_batch,
)
from lungfast.trained.schedule import learning_rate
from lungfast.trained.trainer import DIVERGED, RUNNING, Fitted

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_FEWEST_CELLS = 2
"""Instance normalisation needs more than one cell at the bottom of the U."""


@dataclass(frozen=True, kw_only=True)
class UnetConfig:
    """The network and its training. ``size`` is the side of its input in px; ``channels`` from top to bottom,
    the resolution halved between them."""

    size: int = 256
    channels: tuple[int, ...] = (16, 32, 64, 128, 256)
    residual_units: int = 2
    epochs: int = 40
    batch_size: int = 4
    lr: float = 3e-3
    wd: float = 1e-2
    loss: LossName = "dicefocal"
    optimiser: Literal["adam", "adamw"] = "adamw"
    schedule: ScheduleName = "onecycle"
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 0

    def __post_init__(self) -> None:
        self._check(len(self.channels) >= 2 and min(self.channels) >= 1, "channels", "two or more numbers")
        self._check(
            self.size % self.factor == 0 and self.size >= _FEWEST_CELLS * self.factor,
            "size",
            f"a multiple of {self.factor}, at least {_FEWEST_CELLS * self.factor}",
        )
        for name in ("epochs", "batch_size"):
            self._check(getattr(self, name) >= 1, name, "at least 1")
        self._check(self.residual_units >= 0, "residual_units", "at least 0")
        self._check(0 < self.lr < np.inf, "lr", "more than 0")
        self._check(0 <= self.wd < np.inf, "wd", "at least 0")
        self._check(self.loss in get_args(LossName), "loss", "dicefocal or dicece")
        self._check(self.optimiser in {"adam", "adamw"}, "optimiser", "adam or adamw")

    def _check(self, fits: object, name: str, expected: str) -> None:
        if not fits:
            raise UsageError(
                f"{name} of a U-Net cannot be used", found=str(getattr(self, name)), expected=expected
            )

    @property
    def factor(self) -> int:
        """How often the bottom of the U is smaller than its input."""
        return int(2 ** (len(self.channels) - 1))


PRESETS: Mapping[str, UnetConfig] = {
    "small": UnetConfig(),
    "full": UnetConfig(size=512, channels=(32, 64, 128, 256, 512), epochs=100, lr=1e-3),
}
"""``small`` trains on 2 cores, at 5 s of one core for an epoch of 83 images and 28 to validate on; ``full``
wants a GPU. ``small`` was chosen by the validation F1 of Montgomery's fold 0, .976 (batches of 8, 30 epochs:
.969; of 4, 30 epochs: .974, at a rate of 1e-2 .966, with one residual unit and 6e-3 .965)."""


def build_unet(config: UnetConfig) -> nn.Module:
    """MONAI's UNet with random weights from the seed: instance normalisation, PReLU, one logit a pixel."""
    from monai.networks.nets.unet import UNet  # takes 5 s to import

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return UNet(
            spatial_dims=2,
            in_channels=1,
            out_channels=1,
            channels=config.channels,
            strides=(2,) * (len(config.channels) - 1),
            num_res_units=config.residual_units,
        )


def n_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@dataclass(frozen=True, kw_only=True, eq=False)
class UnetTask:
    """What one U-Net is trained on: places in ``pictures``. ``key`` is its identity in the run."""

    key: str
    pictures: Pictures
    train: Int64
    val: Int64


class UnetTrainer:
    """Trains one U-Net; keeps the epoch of the lowest validation loss, the earlier on ties."""

    def __init__(
        self, task: UnetTask, config: UnetConfig, *, device: torch.device, precision: PrecisionName = "fp32"
    ) -> None:
        self._task, self._config, self._device = task, config, device
        self._dtype = _DTYPES[precision]
        self._network = build_unet(config).to(device)
        kind = torch.optim.AdamW if config.optimiser == "adamw" else torch.optim.Adam
        self._optimiser = kind(self._network.parameters(), lr=config.lr, weight_decay=config.wd)
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self._focal = focal_flags([config.loss], device)
        self._status, self._best_epoch, self._best_loss = RUNNING, 0, np.inf
        self._best: dict[str, Tensor] = {}
        self._train_losses: list[float] = []
        self._val_losses: list[float] = []

    def epochs(self) -> Iterator[EpochEnd]:
        """Train epoch by epoch until all are done or the loss is no number any more."""
        while len(self._train_losses) < self._config.epochs and self._status == RUNNING:
            started = time.perf_counter()
            with _repeatable():
                self._train_losses.append(self._train_epoch(len(self._train_losses)))
                self._val_losses.append(self._validate())
            self._keep()
            yield EpochEnd(
                epoch=len(self._train_losses),
                epochs=self._config.epochs,
                keys=(self._task.key,),
                train_loss_K=_one(self._train_losses[-1]),
                val_loss_K=_one(self._val_losses[-1]),
                best_epoch_K=np.array([self._best_epoch], np.int64),
                status_K=(self._status,),
                seconds=time.perf_counter() - started,
                images=len(self._task.train),
            )

    def fitted(self) -> Fitted:
        """The kept epoch under MONAI's names, float32 on the CPU; empty where none had a finite loss."""
        return Fitted(
            key=self._task.key,
            state=self._best,
            best_epoch=self._best_epoch,
            status="done" if self._status == RUNNING else self._status,
            train_loss=tuple(self._train_losses),
            val_loss=tuple(self._val_losses),
        )

    def _train_epoch(self, epoch: int) -> float:
        """Mean training loss over the images."""
        order = row_order(self._task.train, seed=self._config.seed, epoch=epoch)
        steps = steps_of(len(order), self._config.batch_size)
        self._network.train()
        losses = []
        for index, images_B in enumerate(_batches(order, self._config.batch_size)):
            self._set_rate(epoch * steps + index, self._config.epochs * steps)
            loss_B = self._step(self._augmented(images_B, epoch))
            losses += loss_B.tolist()
        return float(np.mean(losses))

    def _augmented(self, images_B: Int64, epoch: int) -> PictureBatch:
        config, pictures = self._config, self._task.pictures
        draws = [
            Draw.of(config.augmentation, pictures.ids[image], seed=config.seed, epoch=epoch)
            for image in images_B
        ]
        return augmented_batch(pictures, images_B, self._device, draws)

    def _set_rate(self, step: int, n_steps: int) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = learning_rate(self._config.schedule, self._config.lr, step, n_steps)

    def _step(self, batch: PictureBatch) -> Tensor:
        self._optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            logits_B1hw = self._network(batch.image_B1hw)
        loss_B = picture_loss(logits_B1hw[:, 0].float(), batch, self._focal)
        self._scaler.scale(loss_B.mean()).backward()  # type: ignore[no-untyped-call]
        self._scaler.step(self._optimiser)
        self._scaler.update()
        return loss_B.detach()

    def _validate(self) -> float:
        """Mean loss over the validation images, unaltered, in fp32."""
        self._network.eval()
        losses = []
        with torch.inference_mode():
            for images_B in _batches(self._task.val, self._config.batch_size):
                batch = plain_batch(self._task.pictures, images_B, self._device)
                logits_Bhw = self._network(batch.image_B1hw)[:, 0]
                losses += picture_loss(logits_Bhw, batch, self._focal).tolist()
        return float(np.mean(losses))

    def _keep(self) -> None:
        loss = self._val_losses[-1]
        if not np.isfinite([loss, self._train_losses[-1]]).all():
            self._status = DIVERGED
        elif loss < self._best_loss:
            self._best_loss, self._best_epoch = loss, len(self._val_losses)
            self._best = {
                name: tensor.detach().cpu().clone() for name, tensor in self._network.state_dict().items()
            }


def picture_loss(logits_Bhw: Tensor, batch: PictureBatch, focal_1: Tensor) -> Tensor:
    """Loss of every picture (B,) on the part that is image."""
    flat = (logits_Bhw[None], batch.target_Bhw[None], batch.valid_Bhw[None])
    logits_1BX, target_1BX, valid_1BX = (tensor.flatten(2) for tensor in flat)
    return segmentation_loss(logits_1BX, target_1BX, valid_1BX, focal_1)[0]


def predict_unet(
    state: Mapping[str, Tensor],
    config: UnetConfig,
    pictures: Pictures,
    images: Int64,
    *,
    device: torch.device,
) -> Iterator[tuple[int, Float32]]:
    """(image, logits_hw float32) of every image, in fp32."""
    network = build_unet(config)
    network.load_state_dict(dict(state))
    network.to(device).eval()
    with torch.inference_mode(), _repeatable():
        for images_B in _batches(images, config.batch_size):
            logits_Bhw = network(plain_batch(pictures, images_B, device).image_B1hw)[:, 0]
            yield from zip(images_B.tolist(), logits_Bhw.cpu().numpy(), strict=True)


def _repeatable() -> AbstractContextManager[None]:
    """cuDNN's deterministic kernels in full float32; no choice by timing."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)


def _batches(images: Int64, batch_size: int) -> Iterator[Int64]:
    for start in range(0, len(images), batch_size):
        yield images[start : start + batch_size]


def _one(value: float) -> Float64:
    return np.array([value])
