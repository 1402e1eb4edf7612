"""What ``reproduce`` runs: the paper's protocol for one or two sets, whole or for a first look.

Data, as the recipes of :mod:`lungfast.studies.recipes`. Budgets in epochs may differ by set, as one may be
four times as large as the other. What the paper leaves open is said in sentences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from lungfast.frozen.prompts import PromptConfig
from lungfast.records import LossName, PromptKind
from lungfast.scored.scores import DEFAULT_THRESHOLDS, PAPER_THRESHOLDS
from lungfast.studies.fitting import Settings
from lungfast.studies.jitter import PIXELS
from lungfast.studies.recipes import PAPER, PAPER_EPOCHS
from lungfast.trained.trainer import TrainConfig
from lungfast.trained.unet import PRESETS, UnetConfig

FOLDS = 5
LONG_CURVE = 1.5
"""Times the epochs of a recipe that has the paper's or more: to see what comes after the hundredth."""
QUICK_IMAGES, QUICK_UNET_IMAGES = 340, 550
"""Training images that a decoder of a quick recipe sees, repetitions counted: 4 epochs of 83, 1 of 340; and
its U-Net, which starts from nothing: 7 and 2 epochs."""
QUICK_EPOCHS = (1, 10)
QUICK_GRID = 0.5
"""The share of its epochs that the grid gets in a quick recipe."""
QUICK_PERTURBED = 20
"""Test images spoilt in every way; each of them is encoded again."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the studies; ``epochs`` by set."""

    name: str
    epochs: Mapping[str, int]
    prompts: tuple[PromptConfig, ...] = field(
        default=tuple(PromptConfig(kind=kind) for kind in ("points", "box", "both", "box-auto", "both-auto"))
    )
    curve_prompts: tuple[PromptConfig, ...] = field(
        default=tuple(PromptConfig(kind=kind) for kind in ("points", "box", "both"))
    )
    lrs: tuple[float, ...] = PAPER.lrs
    wds: tuple[float, ...] = PAPER.wds
    preset: tuple[float, float] = PAPER.sam_lr_wd or (1e-5, 0.0)
    """Rate and decay of a decoder that starts from SAM's weights: the winner of the paper's grid."""
    losses: tuple[LossName, ...] = ("dicefocal", "dicece")
    batch_size: int = 8
    folds: int = FOLDS
    seeds: tuple[int, ...] = (0,)
    split_seed: int = 0
    jitter_px: tuple[int, ...] = PIXELS
    travelling: tuple[PromptKind, ...] = ("points", "box", "both", "box-auto", "both-auto")
    """Prompts whose decoders are tested on the other set."""
    grid_share: float = 1.0
    unet: UnetConfig = PRESETS["small"]
    unet_epochs: Mapping[str, int] = field(default_factory=dict)
    """By set, where they are not those of ``unet``."""
    perturbed: int = 100
    multimask: bool = True
    best: bool = False
    """The best recipe too, on the same folds, from points: it stands beside the paper's."""
    surface: bool = False
    """Also HD95 and ASSD of the cross-validation's masks."""
    clean: bool = False
    """Also their scores after keeping the two largest components and filling holes."""

    @property
    def is_quick(self) -> bool:
        """A first look."""
        return self.name != PAPER.name

    def grid_epochs(self, set_name: str) -> int:
        """Epochs of the grid."""
        return max(1, round(self.epochs[set_name] * self.grid_share))

    def unet_of(self, set_name: str) -> UnetConfig:
        """The U-Net with its budget for a set."""
        return replace(self.unet, epochs=self.unet_epochs.get(set_name, self.unet.epochs))

    def settings(self, epochs: int, memory_bytes: int, *, precision: str, compile_: str) -> Settings:
        """The paper's training: constant rate, last epoch; thresholds 0.50 to 0.70 by 0.05."""
        return Settings(
            train=TrainConfig(
                epochs=epochs,
                batch_size=self.batch_size,
                schedule="constant",
                keep="last",
            ),
            memory_bytes=memory_bytes,
            precision=precision,
            compile=compile_,
            thresholds=DEFAULT_THRESHOLDS,
            choose_among=PAPER_THRESHOLDS,
        )

    def curve_epochs(self, set_name: str) -> int | None:
        """Epochs of the learning curves of their own; None where the recipe is shorter than the paper's."""
        epochs = self.epochs[set_name]
        return int(epochs * LONG_CURVE) if epochs >= PAPER_EPOCHS else None

    def as_dict(self) -> dict[str, Any]:
        budgets = {"epochs": dict(self.epochs), "unet_epochs": dict(self.unet_epochs)}
        return asdict(self) | budgets | {"val_every": 1, "chosen_by_us": list(self.chosen_by_us())}

    def chosen_by_us(self) -> tuple[str, ...]:
        """What the paper does not state."""
        prompt, unet = self.prompts[0], self.unet
        budget = " or ".join(str(n) for n in sorted({self.unet_of(name).epochs for name in self.epochs}))
        return (
            "The SAM variant is that of the cache; the paper does not name its own.",
            "Images keep their aspect and are padded to a square, as SAM does (unless embedded with squash).",
            f"Batch size {self.batch_size}; Adam with coupled weight decay and its default betas.",
            f"{prompt.points_per_lung} point a lung, the deepest of the fold's average training mask, moved "
            f"in training by a normal step of {prompt.point_jitter:.0%} of the sides.",
            f"Boxes are tight around both lungs; in training each side moves outward by 0 to "
            f"{prompt.box_jitter_px - 1} pixels of a 1024-pixel frame.",
            "The loss is taken on low-resolution logits (a quarter of the input), on no padding.",
            "Scores are taken at the native size of each file.",
            "F1 of a fold is the mean over its images; ± is the sample standard deviation over folds.",
            "Folds keep patients together, stratified by label; no epoch and no threshold sees test images.",
            "A decoder that does not start from SAM's weights takes the rate and decay that win the grid on "
            "the validation images of fold 0. Those are the test images of fold 1, whose score may profit a "
            "little; cv with lists for --lr and --wd chooses within every fold.",
            f"The U-Net is MONAI's with residual units at {unet.size} px, {budget} epochs, with its own "
            "schedule and augmentation. It keeps the epoch of its lowest validation loss and scans "
            "thresholds finely, where a decoder keeps its last epoch and chooses among the paper's five. The "
            "paper quotes another group's U-Net.",
        )


def paper_recipe(
    n_train: Mapping[str, int],
    *,
    epochs: Mapping[str, int] | None = None,
    unet_epochs: Mapping[str, int] | None = None,
    quick: bool = False,
    seeds: int = 1,
    on_gpu: bool = False,
) -> Recipe:
    """The paper's protocol for sets of ``n_train`` training images a fold; ``quick`` for a first look."""
    low, high = QUICK_EPOCHS

    def few(images: int) -> dict[str, int]:
        return {name: min(high, max(low, round(images / n))) for name, n in n_train.items()}

    default = few(QUICK_IMAGES) if quick else dict.fromkeys(n_train, PAPER_EPOCHS)
    unet = PRESETS["full" if on_gpu else "small"]
    recipe = Recipe(
        name="paper, quick" if quick else "paper",
        epochs=default | dict(epochs or {}),
        seeds=tuple(range(seeds)),
        unet=unet,
        unet_epochs=(few(QUICK_UNET_IMAGES) if quick else {}) | dict(unet_epochs or {}),
    )
    if not quick:
        return recipe
    return replace(
        recipe,
        grid_share=QUICK_GRID,
        jitter_px=(0, 20, 80),
        travelling=("points", "box-auto"),
        perturbed=min(QUICK_PERTURBED, max(1, min(n_train.values()) // 2)),
        multimask=False,
    )
