"""The paper's own figures, typed in from its tables: nothing comes in, :data:`FIGURES` goes out.

"Lung Segmentation in Chest X-ray Images using the Segment Anything Model", Bellon de Carvalho and Almeida.
Its "Bounding Box" is our ``box``, "Points" ``points`` and "Both" ``both``. Its training data stand in
``train`` where they are not the set that was tested. It does not say which of SAM's encoders it used.
"""

from __future__ import annotations

from dataclasses import dataclass

MONTGOMERY, SHENZHEN = "montgomery", "shenzhen"
PROMPTS = ("box", "points", "both")
THRESHOLDS = (0.50, 0.55, 0.60, 0.65, 0.70)
GRID_LR = (1e-5, 1e-4, 1e-3)
GRID_WD = (0.0, 1e-1, 1e-3)
WINNER_LR, WINNER_WD = 1e-5, 0.0
"""Section IV-D: the winner of its grid."""
LAST_USEFUL_EPOCH = 100
"""Section IV-B: no significant improvement in loss after it."""
HE_ET_AL_F1 = 0.60
"""Section II: the most that He et al. report for SAM on lungs in chest X-rays, with points."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One number of the paper. ``model`` is ``sam``, ``fine-tuned`` or ``unet`` (of its reference [8])."""

    table: str
    set: str
    prompt: str
    metric: str
    mean: float
    std: float | None = None
    model: str = "fine-tuned"
    threshold: float | None = None
    train: str | None = None


Four = tuple[float, float, float, float]

_TABLE_I: dict[str, dict[str, Four]] = {  # F1, its std, IoU, its std
    MONTGOMERY: {
        "box": (0.718, 0.033, 0.586, 0.033),
        "points": (0.860, 0.013, 0.774, 0.018),
        "both": (0.848, 0.006, 0.746, 0.007),
    },
    SHENZHEN: {
        "box": (0.782, 0.009, 0.661, 0.013),
        "points": (0.726, 0.021, 0.593, 0.026),
        "both": (0.863, 0.005, 0.765, 0.008),
    },
}
_TABLE_II: dict[str, dict[str, tuple[float, ...]]] = {  # F1 at THRESHOLDS
    MONTGOMERY: {
        "box": (0.828, 0.812, 0.743, 0.596, 0.410),
        "points": (0.898, 0.932, 0.957, 0.960, 0.938),
        "both": (0.894, 0.893, 0.879, 0.835, 0.759),
    },
    SHENZHEN: {
        "box": (0.837, 0.127, 0.003, 0.000, 0.000),
        "points": (0.880, 0.918, 0.870, 0.829, 0.789),
        "both": (0.846, 0.782, 0.417, 0.105, 0.005),
    },
}
_TABLES_III_IV: dict[tuple[str, str, str], tuple[float, float]] = {  # (table, train, test): F1, IoU
    ("III", SHENZHEN, MONTGOMERY): (0.924, 0.860),
    ("III", MONTGOMERY, MONTGOMERY): (0.943, 0.897),
    ("IV", MONTGOMERY, SHENZHEN): (0.933, 0.875),
    ("IV", SHENZHEN, SHENZHEN): (0.915, 0.845),
}
_TABLE_V: dict[str, dict[str, Four]] = {
    MONTGOMERY: {
        "box": (0.818, 0.040, 0.707, 0.045),
        "points": (0.943, 0.007, 0.897, 0.012),
        "both": (0.876, 0.015, 0.787, 0.023),
    },
    SHENZHEN: {
        "box": (0.797, 0.014, 0.667, 0.024),
        "points": (0.915, 0.011, 0.845, 0.018),
        "both": (0.845, 0.012, 0.735, 0.018),
    },
}
_TABLE_VI: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {  # SAM, U-Net: F1, its std
    MONTGOMERY: ((0.943, 0.007), (0.973, 0.014)),
    SHENZHEN: ((0.915, 0.011), (0.941, 0.047)),
}


def _by_prompt(table: str, values: dict[str, dict[str, Four]], model: str) -> list[Figure]:
    return [
        Figure(
            table=table, set=name, prompt=prompt, metric=metric, mean=four[i], std=four[i + 1], model=model
        )
        for name, prompts in values.items()
        for prompt, four in prompts.items()
        for metric, i in (("f1", 0), ("iou", 2))
    ]


def _table_ii() -> list[Figure]:
    return [
        Figure(table="II", set=name, prompt=prompt, metric="val_f1", mean=f1, threshold=threshold)
        for name, prompts in _TABLE_II.items()
        for prompt, curve in prompts.items()
        for threshold, f1 in zip(THRESHOLDS, curve, strict=True)
    ]


def _transfers() -> list[Figure]:
    return [
        Figure(table=table, set=test, prompt="points", metric=metric, mean=mean, train=train)
        for (table, train, test), values in _TABLES_III_IV.items()
        for metric, mean in zip(("f1", "iou"), values, strict=True)
    ]


def _table_vi() -> list[Figure]:
    return [
        Figure(table="VI", set=name, prompt=prompt, metric="f1", mean=mean, std=std, model=model)
        for name, both in _TABLE_VI.items()
        for (prompt, model), (mean, std) in zip((("points", "fine-tuned"), ("", "unet")), both, strict=True)
    ]


FIGURES: tuple[Figure, ...] = (
    *_by_prompt("I", _TABLE_I, "sam"),
    *_table_ii(),
    *_transfers(),
    *_by_prompt("V", _TABLE_V, "fine-tuned"),
    *_table_vi(),
)


def figure(table: str, set_name: str, metric: str = "f1", **more: object) -> Figure | None:
    """The paper's figure, None where it has none; sets are matched by name, in any case."""
    wanted = {"table": table, "set": set_name.lower(), "metric": metric} | more
    matching = (one for one in FIGURES if all(getattr(one, key) == value for key, value in wanted.items()))
    return next(matching, None)


def unet_gap(set_name: str) -> float | None:
    """How far the paper's fine-tuned SAM stays below its U-Net: what it calls near."""
    sam = figure("VI", set_name, model="fine-tuned")
    unet = figure("VI", set_name, model="unet")
    return None if sam is None or unet is None else round(unet.mean - sam.mean, 3)
