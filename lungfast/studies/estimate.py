"""How long will it take? A few steps on the cache itself, times what is to be done.

Comes in: a workspace and settings. Goes out: seconds for training one decoder on one image, measured on
a small stack. It decides nothing; it is told before a long study starts.
"""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from lungfast.compute import resolve_precision
from lungfast.data.splits import make_folds
from lungfast.frozen.prompts import PromptConfig
from lungfast.records import DecoderConfig, Plan
from lungfast.studies.fitting import Settings
from lungfast.studies.scoring import prepare
from lungfast.studies.workspace import Workspace
from lungfast.trained.trainer import Trainer

PROBE_DECODERS, PROBE_EPOCHS = 4, 3
SCORED_SHARE = 0.8
"""Predicting and counting an image takes about this share of a training step on it.

Shares but the best recipe's are of nano at 32x32 tokens, bf16, 2 cores of an Intel Xeon; ``reproduce
--quick`` on both real sets, whose sum they meet within 5 %.
"""
VALIDATED_SHARE = 0.6
"""The loss on a validation image, always in fp32, takes this share."""
HIGH_RES_SHARE = 1.25
"""A step of the best recipe, with high-resolution features and six points, takes so many of the paper's."""
ENCODED_SHARE = 7.0
"""Encoding an image with nano takes as long as so many training steps."""
UNET_SHARE = 3.0
"""A U-Net of 256 px takes this many decoder steps an image, validation counted."""
STARTED_SECONDS = 5.0
"""Opening, saving and writing a study."""


def seconds_per_image(workspace: Workspace, settings: Settings, *, folds: int) -> float:
    """Seconds a (decoder, image) pair, the fastest of a few passes over one batch after a first."""
    split = make_folds(workspace.cache.images, folds, seed=0)[0]
    n_decoders = prepare(workspace, settings.memory_bytes, PROBE_DECODERS)
    rows = workspace.rows_of(split.train[: settings.train.batch_size])
    prompts = workspace.prompts(PromptConfig(), split.train, seed=0)
    plan = Plan(
        configs=tuple(DecoderConfig(key=str(k), lr=1e-4, wd=0.0) for k in range(n_decoders)),
        train_rows_K=(rows,) * n_decoders,
        val_rows_K=(rows[:1],) * n_decoders,
        prompts_K=(prompts,) * n_decoders,
    )
    config = replace(
        settings.train,
        epochs=PROBE_EPOCHS,
        precision=resolve_precision(settings.precision, workspace.device).name,
        compile=False,
    )
    stack = workspace.stack([workspace.initial(high_res=settings.high_res)] * n_decoders)
    trainer = Trainer(plan, workspace.maker(plan.prompts_K), stack, config)
    started, seconds = time.perf_counter(), []
    for _ in trainer.epochs():
        seconds.append(time.perf_counter() - started)
        started = time.perf_counter()
    return float(np.min(seconds[1:])) / (n_decoders * len(rows))
