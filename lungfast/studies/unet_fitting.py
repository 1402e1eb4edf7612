"""U-Nets of a study: pictures from the cache, one network trained per fold, kept in the run folder.

Comes in: a workspace whose cache has previews, a :class:`UnetConfig`. Goes out: a :class:`Trained` account a
fold, and scores at native size of any fold's U-Net. A fold whose file is in the run folder is not trained
again.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
import torch

from lungfast.compute import cpu_count, resolve_precision
from lungfast.errors import CacheError, TrainingError, UsageError
from lungfast.frozen.cache import EmbeddingCache
from lungfast.geometry import resize_image
from lungfast.records import Bool, Int64, Split, UInt8
from lungfast.runs import read_tensors
from lungfast.scored.scores import scores_of, stack_scores
from lungfast.studies.accounts import Trained, keep_unet
from lungfast.studies.fitting import CHOSEN, Listener
from lungfast.studies.pace import timed
from lungfast.studies.protocol import Study
from lungfast.studies.scoring import MEASURES, Scored
from lungfast.studies.workspace import PROCESS_BYTES, Workspace
from lungfast.trained.pictures import Pictures
from lungfast.trained.trainer import Fitted
from lungfast.trained.unet import UnetConfig, UnetTask, UnetTrainer, predict_unet

PICTURE_BYTES = 2
"""Of a pixel of a picture: grey and target."""
STEP_BYTES = 56
"""Of a pixel and top channel of a batch in training; measured: 55 in fp32, 45 in bf16."""


def check_pictures(workspace: Workspace, model: UnetConfig, memory_bytes: int) -> None:
    """Refuse a cache without previews, or with smaller ones, and a memory bound that the pictures exceed."""
    cache = workspace.cache
    if not cache.has_pixels:
        raise CacheError(
            f"{cache.url} holds no previews, which a U-Net is trained on",
            fix="run embed again without --no-pixels",
        )
    side = cache.preview(0).shape[0]
    if model.size > side:
        raise UsageError(
            "--size is larger than the cache's previews",
            found=f"{model.size} px",
            expected=f"at most {side} px",
            fix=f"use --size {side // model.factor * model.factor}",
        )
    pixels = model.size**2
    need = PROCESS_BYTES + pixels * (
        PICTURE_BYTES * len(cache.images) + STEP_BYTES * model.channels[0] * model.batch_size
    )
    if need > memory_bytes:
        raise UsageError(
            "--memory is too small for the U-Net's pictures and batches",
            found=f"{memory_bytes / 1e6:.0f} MB",
            expected=f"{need / 1e6:.0f} MB",
            fix="use a smaller --size",
        )


def pictures_of(workspace: Workspace, size: int, listener: Listener) -> Pictures:
    """Every image of the cache at ``size``: its preview, its target, its extent; about 50 ms each."""
    cache = workspace.cache
    images = range(len(cache.images))
    listener.phase("reading previews", len(images))
    grey, targets = [], []
    with ThreadPoolExecutor(cpu_count()) as pool:
        for grey_hw, target_hw in pool.map(lambda image: _picture(cache, image, size), images):
            grey.append(grey_hw)
            targets.append(target_hw)
            listener.advance()
    return Pictures(
        ids=[record.id for record in cache.images],
        grey_Nhw=np.stack(grey),
        target_Nhw=np.stack(targets),
        extent_N2=np.array([cache.frame(image).valid_extent((size, size)) for image in images], np.int64),
    )


def _picture(cache: EmbeddingCache, image: int, size: int) -> tuple[UInt8, Bool]:
    grey_hw = resize_image(cache.preview(image), (size, size))
    return grey_hw, cache.frame(image).target_hw(cache.mask(image), (size, size))


class UnetFitter:
    """Trains, keeps and scores the U-Nets of one run."""

    def __init__(self, study: Study, model: UnetConfig, pictures: Pictures) -> None:
        self._study, self._model, self._pictures = study, model, pictures
        self._device = study.workspace.device
        self.chosen = self._choose_once()

    def _choose_once(self) -> dict[str, Any]:
        """Precision: fixed before the first step, kept for a resume."""
        run = self._study.run
        if not (run.path / CHOSEN).exists():
            precision = resolve_precision(self._study.settings.precision, self._device)
            run.write(CHOSEN, {"precision": precision.name, "why": precision.reason})
        return dict(run.read(CHOSEN))

    def key(self, split: Split) -> str:
        return f"{split.name}_unet{self._model.size}_seed{self._model.seed}"

    def fit(self, split: Split) -> Trained:
        """The account of the fold's U-Net, trained now or before."""
        path = self._study.run.decoder_path(self.key(split))
        if not path.exists():
            keep_unet(self._study.run, self._train(split))
        return Trained.read(path)

    def _train(self, split: Split) -> Fitted:
        listener, precision = self._study.listener, self.chosen["precision"]
        task = UnetTask(key=self.key(split), pictures=self._pictures, train=split.train, val=split.val)
        listener.note(f"training {task.key} on {len(split.train)} previews in {precision}")
        trainer = UnetTrainer(task, self._model, device=self._device, precision=precision)
        try:
            n_train, run = len(split.train), self._study.run
            for end in timed(trainer.epochs(), run, images=n_train, batch_size=self._model.batch_size):
                listener.epoch(end)
        except torch.OutOfMemoryError as error:
            raise TrainingError(
                "the GPU's memory is too small",
                found=str(error).split(".", maxsplit=1)[0],
                fix="use a smaller --size in a new run",
            ) from error
        return trainer.fitted()

    def score(self, splits: Sequence[Split], part: Literal["val", "test"]) -> list[Scored]:
        """Scores at native size and every threshold of each fold's U-Net on that part of its split."""
        self._study.listener.phase(f"scoring {part}", sum(len(getattr(split, part)) for split in splits))
        return [self._score(split, getattr(split, part)) for split in splits]

    def _score(self, split: Split, images: Int64) -> Scored:
        study = self._study
        state, _ = read_tensors(study.run.decoder_path(self.key(split)))
        logits = predict_unet(state, self._model, self._pictures, images, device=self._device)
        found = {}
        for _, image, counts in study.workspace.count(
            ((0, image, logits_hw) for image, logits_hw in logits), study.settings.thresholds
        ):
            found[image] = scores_of(counts)
            study.listener.advance()
        ordered = stack_scores([found[image] for image in images.tolist()])
        return Scored(images=images, values={name: getattr(ordered, f"{name}_NQ") for name in MEASURES})
