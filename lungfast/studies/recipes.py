"""Settings that belong together: how decoders train under ``--recipe paper`` and ``--recipe best``.

A recipe is data, and this is the only place that defines one. What ``reproduce`` runs with them is
:mod:`lungfast.studies.whole_paper`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lungfast.errors import UsageError
from lungfast.frozen.cache import EmbeddingCache
from lungfast.frozen.encoders import decoder_origin
from lungfast.frozen.priors import Placement
from lungfast.frozen.prompts import PromptConfig
from lungfast.records import EncoderSpec, LossName, PromptKind, ScheduleName
from lungfast.scored.scores import DEFAULT_THRESHOLDS, PAPER_THRESHOLDS
from lungfast.studies.fitting import Settings
from lungfast.trained.trainer import TrainConfig

PAPER_EPOCHS = 100
TRAINED_BY = ("epochs", "batch_size", "schedule", "val_every", "patience", "keep", "average")
"""Options of a recipe, and of a command, that are the trainer's own."""
OF_THE_CACHE = ("views", "test_views", "high_res")
"""What a recipe can only have of a cache that was embedded for it."""
SCANS: Mapping[str, tuple[float, ...]] = {"fine": DEFAULT_THRESHOLDS, "paper": PAPER_THRESHOLDS}
_AS_THEY_STAND = (
    *("losses", "batch_size", "schedule", "keep", "patience", "average", "thresholds"),
    *("points_per_lung", "placement", "point_jitter", "seeds", "ensemble", "clean"),
)


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """How decoders train where the user does not say otherwise; ``wds`` and ``lrs`` are chosen among.

    ``images`` is the budget: how many training images a decoder sees, repetitions counted, within
    ``epochs_least`` and ``epochs_most``. ``sam_lr_wd`` holds for decoders that start from SAM's weights.
    """

    name: str
    images: int
    epochs_least: int
    epochs_most: int
    lrs: tuple[float, ...]
    wds: tuple[float, ...]
    sam_lr_wd: tuple[float, float] | None = None
    losses: tuple[LossName, ...] = ("dicefocal",)
    batch_size: int = 8
    schedule: ScheduleName = "onecycle"
    keep: Literal["best", "last"] = "best"
    patience: int = 0
    val_every: int = 1
    average: float = 0.0
    views: int = 1
    test_views: int = 1
    thresholds: Literal["fine", "paper"] = "fine"
    points_per_lung: int = 1
    placement: Placement = "deepest"
    point_jitter: float = 0.01
    seeds: int = 1
    ensemble: bool = False
    clean: bool = False
    high_res: bool = False
    """Where the encoder has high-resolution features: nano."""

    def epochs(self, n_train: int) -> int:
        """Passes over so many training images."""
        return min(self.epochs_most, max(self.epochs_least, round(self.images / max(1, n_train))))

    def options_for(self, cache: EmbeddingCache, folds: int) -> dict[str, Any]:
        """By the names of the commands' options, for the images, views and decoder of a cache."""
        n_train = max(1, len(cache.images) * (folds - 2) // folds)
        epochs = self.epochs(n_train)
        lrs, wds = self.lrs, self.wds
        if self.sam_lr_wd is not None and decoder_origin(cache.spec) == "sam":
            lrs, wds = (self.sam_lr_wd[0],), (self.sam_lr_wd[1],)
        return {name: getattr(self, name) for name in _AS_THEY_STAND} | {
            "lrs": lrs,
            "wds": wds,
            "lr": lrs[0],
            "wd": wds[0],
            "loss": self.losses[0],
            "epochs": epochs,
            "val_every": self.val_every,
            "views": min(self.views, cache.n_views),
            "test_views": min(self.test_views, cache.n_views),
            "high_res": self.high_res and cache.spec.has_high_res,
        }

    def wants_high_res(self, spec: EncoderSpec) -> bool:
        """Of an encoder that has high-resolution features, whether or not they were kept."""
        return self.high_res and spec.name == "nano"

    def told(
        self, spec: EncoderSpec, options: Mapping[str, Any], values: Mapping[str, Any], among: Iterable[str]
    ) -> str:
        """``best``, or ``best, but epochs 2, views 1``: where options are not what it says for a cache.

        ``values`` are those of :meth:`options_for`; what a cache of this encoder could hold and does not
        counts as changed.
        """
        wanted = {name: getattr(self, name) for name in ("views", "test_views")}
        own = {**values, **wanted, "high_res": self.wants_high_res(spec)}
        changed = [f"{name} {options[name]}" for name in among if options[name] != own[name]]
        return self.name + (f", but {', '.join(changed)}" if changed else "")

    def settings_for(self, cache: EmbeddingCache, folds: int, **more: Any) -> Settings:
        """The settings of a study; ``more``: ``epochs``, and fields of Settings such as ``memory_bytes``."""
        values = options = self.options_for(cache, folds)
        if "epochs" in more:
            options = values | {"epochs": more.pop("epochs"), "val_every": 1}
        return Settings(
            train=TrainConfig(**{name: options[name] for name in TRAINED_BY}),
            thresholds=SCANS[self.thresholds],
            views=options["views"],
            test_views=options["test_views"],
            high_res=options["high_res"],
            recipe=self.told(cache.spec, options, values, ("epochs", *OF_THE_CACHE)),
            **more,
        )

    def prompt(self, kind: PromptKind) -> PromptConfig:
        """A prompt as the recipe trains it."""
        return PromptConfig(
            kind=kind,
            points_per_lung=self.points_per_lung,
            placement=self.placement,
            point_jitter=self.point_jitter,
        )


PAPER = TrainingRecipe(
    name="paper",
    images=0,
    epochs_least=PAPER_EPOCHS,
    epochs_most=PAPER_EPOCHS,
    lrs=(1e-5, 1e-4, 1e-3),
    wds=(0.0, 1e-1, 1e-3),
    sam_lr_wd=(1e-5, 0.0),
    schedule="constant",
    keep="last",
    thresholds="paper",
)
"""The paper's own: constant rate, last epoch, thresholds 0.50 to 0.70; its grid, or what won it for SAM."""

BEST = TrainingRecipe(
    name="best",
    images=18_000,
    epochs_least=30,
    epochs_most=110,
    lrs=(1e-3,),
    wds=(0.0,),
    sam_lr_wd=(1e-4, 0.0),
    schedule="constant",
    val_every=5,
    average=0.999,
    views=8,
    test_views=8,
    points_per_lung=3,
    high_res=True,
)
"""Decided on validation images of fold 0 and on a set not trained on (benchmarks/bench_recipe.py, an arm
each), but for two choices that the model card tells; where its record has no row, the first value stays."""


def training_recipe(name: str) -> TrainingRecipe:
    """``paper`` or ``best``; UsageError for another."""
    known = {one.name: one for one in (PAPER, BEST)}
    if name not in known:
        raise UsageError("the recipe is unknown", found=repr(name), expected=" or ".join(known))
    return known[name]
