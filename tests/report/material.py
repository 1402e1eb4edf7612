"""A made-up Material with every study in it: plausible numbers from one seed, examples drawn as ellipses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lungfast.report.material import Example, Material
from lungfast.runs import SCHEMA

PROMPTS = ("points", "box", "both", "box-auto", "both-auto")
ORACLES = {"box", "both"}
N_IMAGES = {"montgomery": 138, "shenzhen": 566}
F1 = {"points": 0.958, "box": 0.966, "both": 0.968, "box-auto": 0.951, "both-auto": 0.957}
THRESHOLDS = [n / 100 for n in range(5, 96)]
OFFICIAL_B = "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"


def material(
    sets: Sequence[str] = ("montgomery", "shenzhen"),
    *,
    encoder: str = "nano",
    epochs: int = 150,
    hostile: str = "",
    generated: bool = True,
    side: int = 96,
) -> Material:
    """``hostile`` is put into the labels and names that come from data."""
    rng = np.random.default_rng(5)
    studies = {name: studies_of(name, rng, encoder, epochs, hostile) for name in sets}
    return Material(
        title=f"Lungs in chest X-rays{hostile}",
        sets=studies,
        transfer=transfer(sets, rng, encoder) if len(sets) == 2 else None,
        timings=[
            {"study": study, "set": name, "seconds": 41.0 * (i + 1), "peak_memory_mb": 2210.4}
            for name in sets
            for i, study in enumerate(("baseline", "grid", "cv", "unet"))
        ],
        recipe={
            "name": "paper",
            "epochs": dict.fromkeys(sets, epochs),
            "chosen_by_us": [
                "resize: the longer side to the encoder's input, padded",
                "batch size 8; one point per lung",
            ],
        },
        examples={name: examples(rng, generated=generated, hostile=hostile, side=side) for name in sets},
        generated=frozenset(sets) if generated else frozenset(),
    )


def fold_summary(mean: float, rng: np.random.Generator) -> dict[str, Any]:
    folds = mean + 0.006 * rng.standard_normal(5)
    return {"mean": float(folds.mean()), "std": float(folds.std(ddof=1)), "folds": folds.tolist()}


def image_summary(mean: float, n: int) -> dict[str, Any]:
    return {"mean": mean, "n": n, "ci95": [mean - 0.004, mean + 0.0035]}


def scores(mean: float, n: int, rng: np.random.Generator) -> dict[str, Any]:
    iou = mean / (2 - mean)
    row: dict[str, Any] = {"f1": fold_summary(mean, rng), "iou": fold_summary(iou, rng)}
    row |= {"precision": fold_summary(mean + 0.004, rng), "recall": fold_summary(mean - 0.004, rng)}
    return row | {
        "f1_image": image_summary(mean, n),
        "iou_image": image_summary(iou, n),
        "f1_p05": mean - 0.07,
    }


def provenance(name: str, encoder: str, epochs: int) -> dict[str, Any]:
    sam = encoder.startswith("vit")
    spec = {
        "name": encoder,
        "input_size": 1024 if sam else 512,
        "grid": [64, 64] if sam else [32, 32],
        "channels": 256,
        "resize": "longest",
        "weights_sha256": OFFICIAL_B if sam else "cecaaea7" * 8,
    }
    return {
        "versions": {"lungfast": "0.2.0", "torch": "2.9.0", "monai": "1.5.0", "numpy": "2.3.0"},
        "hardware": {"cpu": "A CPU", "cores": 2, "memory_gib": 23.5, "bf16": True, "device": "cpu"},
        "cache": {
            "url": f"caches/{name}.zarr",
            "encoder": spec,
            "fingerprint": {"data_sha256": "ab" * 32, "dtype": "float16"},
            "images": N_IMAGES.get(name, 40),
        },
        "config": {"folds": 5, "split_seed": 0, "seeds": [0]},
        "settings": {
            "train": {"epochs": epochs, "batch_size": 8, "schedule": "constant", "keep": "best"},
            "thresholds": THRESHOLDS,
        },
        "training": {"precision": "bf16", "width": 5},
    }


def comparison(family: str, a: str, b: str, difference: float, n: int) -> dict[str, Any]:
    return {
        "family": family,
        "name": f"{a} \N{MINUS SIGN} {b}",
        "a": a,
        "b": b,
        "metric": "f1",
        "difference": difference,
        "ci95": [difference - 0.003, difference + 0.003],
        "n": n,
        "p_wilcoxon": 0.0004 if abs(difference) > 0.003 else 0.31,
        "p_holm": 0.0012 if abs(difference) > 0.003 else 0.62,
        "t": {"difference": difference, "t": 2.9, "df": 4, "p": 0.044, "n_values": 5},
    }


def history(
    prompt: str | None, epochs: int, rng: np.random.Generator, folds: int = 5
) -> list[dict[str, Any]]:
    found = []
    for fold in range(folds):
        epoch = np.arange(1, epochs + 1)
        train = 0.03 + 0.6 * np.exp(-epoch / 9) + 0.002 * rng.random(epochs)
        val = 0.045 + 0.55 * np.exp(-epoch / 10) + 0.003 * rng.random(epochs)
        best = int(val.argmin()) + 1
        settled = int(np.argmax(val <= val.min() * 1.01)) + 1
        found.append(
            {
                "decoder": f"{prompt}-fold-{fold}",
                "fold": f"fold-{fold}",
                "prompt": prompt,
                "loss": "dicefocal",
                "seed": 0,
                "train_loss": train.tolist(),
                "val_loss": val.tolist(),
                "last_improvement": best,
                "settled": settled,
            }
        )
    return found


def curve(peak: float, *, steep: float) -> dict[str, Any]:
    x = np.array(THRESHOLDS)
    val = peak - steep * np.abs(x - 0.46) ** 2.2
    lines = {
        "val_f1": val,
        "val_iou": val / (2 - val),
        "test_f1": val - 0.004,
        "test_iou": val / (2 - val) - 0.006,
    }
    return {"thresholds": THRESHOLDS, **{name: line.clip(0, 1).tolist() for name, line in lines.items()}}


def images(rows: dict[str, float], n: int, rng: np.random.Generator, hostile: str) -> dict[str, Any]:
    f1 = {
        key: np.clip(1 - (1 - mean) * rng.lognormal(-0.12, 0.5, n), 0, 1).tolist()
        for key, mean in rows.items()
    }
    return {
        "id": [f"X_{i:04d}{hostile}" for i in range(n)],
        "patient": [str(i) for i in range(n)],
        "label": ["normal" if i % 2 else "tb" for i in range(n)],
        "source": ["one"] * n,
        "fold": [f"fold-{i % 5}" for i in range(n)],
        "f1": f1,
        "iou": f1,
    }


def studies_of(
    name: str, rng: np.random.Generator, encoder: str, epochs: int, hostile: str
) -> dict[str, dict[str, Any]]:
    n = N_IMAGES.get(name, 40)
    made = provenance(name, encoder, epochs)
    frame = {"schema": SCHEMA, "provenance": made}
    return {
        "baseline": frame | baseline(n, rng, hostile, sam=encoder != "nano") | {"study": "baseline"},
        "grid": frame | grid(epochs) | {"study": "grid"},
        "cv": frame | cv(n, rng, epochs, hostile) | {"study": "cv"},
        "thresholds": frame | thresholds() | {"study": "thresholds"},
        "unet": frame | unet(n, rng, epochs, hostile) | {"study": "unet"},
        "jitter": frame | jitter(n, rng) | {"study": "jitter"},
        "quality": frame | quality() | {"study": "quality"},
        "robustness": frame | robustness(hostile) | {"study": "robustness"},
    }


def cv(n: int, rng: np.random.Generator, epochs: int, hostile: str) -> dict[str, Any]:
    rows = []
    for prompt in PROMPTS:
        folds = [
            {
                "fold": f"fold-{i}", "seed": 0, "lr": 1e-3, "wd": 0.0, "loss": "dicefocal", "prompt": prompt,
                "best_epoch": 88 + i, "status": "done", "threshold": 0.44 + i / 100, "val_f1": F1[prompt],
                "val_iou": 0.9, "decoder": f"{prompt}-{i}", "n_train": 83, "n_test": n // 5, "test": {},
            }
            for i in range(5)
        ]  # fmt: skip
        strata = [
            {
                "by": "label",
                "value": f"{value}{hostile}",
                "f1_image": image_summary(F1[prompt] + shift, n // 2),
                "iou_image": image_summary(0.9 + shift, n // 2),
            }
            for value, shift in (("normal", 0.008), ("tb", -0.008))
        ]
        row = {"key": prompt, "prompt": prompt, "needs_ground_truth": prompt in ORACLES, "loss": "dicefocal"}
        row |= {
            "status": "done",
            "seeds": [0],
            "per_fold": folds,
            "strata": strata,
            **scores(F1[prompt], n, rng),
        }
        row["curve"] = curve(F1[prompt], steep=0.9)
        row["calibration"] = {"ece": 0.0123, "folds": [0.011, 0.014, 0.012, 0.013, 0.0115]}
        if prompt == "points":
            row["surface"] = {"hd95_px": image_summary(38.2, n), "assd_px": image_summary(9.1, n)}
            row["surface"] |= {"hd95_mm": None, "assd_mm": None}
            row["cleaned"] = {
                "name": "two largest components, holes filled",
                "f1": fold_summary(F1[prompt] + 0.001, rng),
                "f1_image": image_summary(F1[prompt] + 0.001, n),
                "difference": comparison("cleaned", "cleaned", "plain", 0.0011, n),
            }
        rows.append(row)
    compared = [comparison("prompts", "points", other, F1["points"] - F1[other], n) for other in PROMPTS[1:]]
    return {
        "rows": rows,
        "images": images(F1, n, rng, hostile),
        "history": [one for prompt in PROMPTS for one in history(prompt, epochs, rng)],
        "comparisons": compared,
    }


def baseline(n: int, rng: np.random.Generator, hostile: str, *, sam: bool) -> dict[str, Any]:
    before = dict.fromkeys(PROMPTS, 0.31) if not sam else {p: 0.86 - 0.03 * i for i, p in enumerate(PROMPTS)}
    rows = [
        {
            "key": prompt, "prompt": prompt, "needs_ground_truth": prompt in ORACLES, "mask": "single",
            "decoder_origin": "sam" if sam else "generated", "status": "done", "threshold": 0.5, "strata": [],
        }
        | scores(before[prompt], n, rng)
        for prompt in PROMPTS
    ]  # fmt: skip
    return {"rows": rows, "images": images(before, n, rng, hostile)}


def grid(epochs: int) -> dict[str, Any]:
    rows = [
        {
            "lr": lr, "wd": wd, "loss": "dicefocal", "prompt": "points", "needs_ground_truth": False,
            "seed": 0, "status": "done", "best_epoch": epochs, "threshold": 0.45, "decoder": f"{lr}-{wd}",
            "val_f1": 0.78 + 0.08 * i - 0.01 * j, "val_iou": 0.7 + 0.08 * i - 0.01 * j,
        }
        for i, lr in enumerate((1e-5, 1e-4, 1e-3))
        for j, wd in enumerate((0.0, 1e-3, 1e-1))
    ]  # fmt: skip
    test = {"f1": 0.951, "iou": 0.907, "precision": 0.95, "recall": 0.952, "n": 28}
    return {"rows": rows, "best": rows[6] | {"test": test}, "history": []}


def thresholds() -> dict[str, Any]:
    rows = []
    for prompt in PROMPTS:
        lines = curve(F1[prompt], steep=1.0)
        row = {"prompt": prompt, "needs_ground_truth": prompt in ORACLES, "thresholds": THRESHOLDS}
        row |= {name: lines[name] for name in ("val_f1", "val_iou", "test_f1")}
        row |= {"chosen": {"threshold": 0.46, "val_f1": F1[prompt]}}
        row |= {"chosen_paper": {"threshold": 0.5, "val_f1": F1[prompt] - 0.001}}
        row |= {"test": {"f1": F1[prompt] - 0.004, "iou": 0.91, "precision": 0.95, "recall": 0.95, "n": 28}}
        rows.append(row | {"test_at_half": {"f1": F1[prompt] - 0.006}})
    return {"rows": rows}


def unet(n: int, rng: np.random.Generator, epochs: int, hostile: str) -> dict[str, Any]:
    model = {
        "name": "MONAI UNet, 2 residual units",
        "size": 256,
        "channels": [16, 32, 64, 128],
        "parameters": 483_000,
        "epochs": 40,
    }
    model |= {"lr": 1e-3, "batch_size": 8}
    row = {"key": "unet", "prompt": None, "needs_ground_truth": False, "loss": "dicefocal", "status": "done"}
    row |= {"seeds": [0], "model": model, "per_fold": [], "strata": [], **scores(0.963, n, rng)}
    return {
        "rows": [row],
        "images": images({"unet": 0.963}, n, rng, hostile),
        "history": history(None, min(epochs, 40), rng),
        "comparisons": [comparison("unet", "points", "unet", -0.005, n)],
    }


def jitter(n: int, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "rows": [
            {"key": prompt, "prompt": prompt, "jitter_px": px, "needs_ground_truth": prompt in ORACLES}
            | scores(F1[prompt] - (px / 100) ** 1.5 * (0.3 if prompt.startswith("box") else 0.1), n, rng)
            for prompt in PROMPTS[1:]
            for px in (0, 5, 10, 20, 40)
        ]
    }


def robustness(hostile: str) -> dict[str, Any]:
    rows = [
        {
            "key": f"{run}: {film}",
            "run": f"{run}{hostile}",
            "perturbation": film,
            "prompt": "points",
            "needs_ground_truth": False,
            "f1_image": image_summary(0.95 + change, 40),
            "f1_p05": 0.9 + change,
            "change": image_summary(change, 40),
        }
        for film, change in (("as it is", 0.0), ("inverted", -0.31))
        for run in ("paper", "best")
    ]
    return {"rows": rows}


def quality() -> dict[str, Any]:
    rate = {"value": 0.82, "ci95": [0.66, 0.91]}
    rows = [
        {
            "on": "test",
            "n": 138,
            "n_bad": 4,
            "n_flagged": 9,
            "recall": None,
            "precision": None,
            "note": "too few",
        },
        {
            "on": "inverted",
            "n": 138,
            "n_bad": 88,
            "n_flagged": 91,
            "recall": rate,
            "precision": rate,
            "note": "",
        },
    ]
    rule = {
        "threshold": 0.0213,
        "rule": "the largest cut that flags at most 5 % of the good validation images",
        "n": 138,
        "false_alarm": 0.05,
    }
    return {"key": "points", "calibration": rule, "rows": rows}


def transfer(sets: Sequence[str], rng: np.random.Generator, encoder: str) -> dict[str, Any]:
    rows = [
        {"train": train, "test": test, "scope": scope, "prompt": prompt, "of": prompt}
        | {"needs_ground_truth": prompt == "box"}
        | scores((0.958 if train == test else 0.941) - lower, N_IMAGES.get(test, 40), rng)
        for prompt, lower in (("points", 0.0), ("box", 0.2))
        for test in sets
        for train in sets
        for scope in ("same fold", "all", "all, together")
        if not (scope != "same fold" and train == test)
    ]
    compared = [
        comparison("transfer", f"{a}→{b}", f"{b}→{b}", difference, N_IMAGES.get(b, 40))
        | {"name": f"{prompt}: {a}→{b} \N{MINUS SIGN} {b}→{b}"}
        | {"of": prompt, "tested_on": b, "needs_ground_truth": prompt == "box"}
        for prompt, difference in (("box", 0.031), ("points", -0.017))
        for a, b in (tuple(sets), tuple(sets)[::-1])
    ]
    return {
        "schema": SCHEMA,
        "study": "transfer",
        "provenance": provenance(sets[0], encoder, 100),
        "rows": rows,
        "comparisons": compared,
        "duplicates": [],
        "near_duplicates": [{"a": "x", "b": "y", "distance": 3}],
    }


def examples(rng: np.random.Generator, *, generated: bool, hostile: str, side: int) -> list[Example]:
    """Two ellipses; the prediction is the same, moved and blurred."""
    rows, columns = np.mgrid[0:side, 0 : side - 8] / side
    found = []
    kinds = ["best"] * 2 + ["median"] * 2 + ["worst"] * 4
    for i, kind in enumerate(kinds):
        radius = [((columns - x) / 0.14) ** 2 + ((rows - 0.5) / 0.33) ** 2 for x in (0.27, 0.66)]
        moved = [((columns - x - 0.01 * i) / 0.14) ** 2 + ((rows - 0.5) / 0.33) ** 2 for x in (0.27, 0.66)]
        prob_HW = 1 / (1 + np.exp(4 * (np.minimum(*moved) - 1.05)))
        grey_HW = 200 - 110 * (np.minimum(*radius) < 1) + 12 * rng.standard_normal(rows.shape)
        found.append(
            Example(
                id=f"X_{i:04d}{hostile}",
                kind=kind,  # type: ignore[arg-type]
                f1=0.985 - 0.015 * i,
                threshold=0.46,
                fold=f"fold-{i % 5}",
                prompt="points",
                preview_HW=grey_HW.clip(0, 255).astype(np.uint8),
                truth_HW=np.minimum(*radius) < 1,
                prob_HW=np.round(255 * prob_HW).astype(np.uint8),
                generated=generated,
            )
        )
    return found
