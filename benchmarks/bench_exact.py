"""Does speed cost F1? The default arithmetic, and 8-bit caches, against fp32 on real X-rays.

    python -m benchmarks.bench_exact DATA [-o WORK] [--epochs montgomery=6,shenzhen=2]

DATA holds MontgomerySet/ and ChinaSet_AllFiles/. Both sets are embedded by nano in float16 and in 8 bits;
five folds of three seeds are trained from points: by the step's default precision, in fp32 (``--exact``), and
on the 8-bit cache. Test images are compared one by one, each by the mean over its seeds; the interval is
over patients. WORK keeps caches and runs: what is finished is not done again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.bench_recipe import SETS, drawn
from benchmarks.common import Target, parser_of, print_targets, write_record
from lungfast.compute import parse_memory
from lungfast.frozen.encoders import load_encoder
from lungfast.frozen.prompts import PromptConfig
from lungfast.scored.scores import per_image_summary
from lungfast.studies.cv import CvConfig, cross_validate
from lungfast.studies.embed import EmbedConfig, embed
from lungfast.studies.fitting import Settings
from lungfast.studies.session import Quiet, Request, run_study
from lungfast.studies.workspace import Workspace
from lungfast.trained.trainer import TrainConfig

ALLOWED = 0.002
ARMS: Mapping[str, tuple[str, str]] = {
    "default": ("float16", "auto"),
    "exact": ("float16", "fp32"),
    "int8": ("int8", "auto"),
}
"""By name: the cache's dtype, the step's precision; the first is what the others are compared with."""


def cache_of(name: str, dtype: str, data: Path, work: Path) -> Workspace:
    url = str(work / f"{name}-{dtype}.zarr")
    encoder = load_encoder("nano", device=torch.device("cpu"))
    embed(SETS[name](data), encoder, EmbedConfig(url=url, dtype=dtype), Quiet())
    return Workspace(url, device=torch.device("cpu"))


def trained(workspace: Workspace, precision: str, epochs: int, folder: Path, *, folds: int) -> dict[str, Any]:
    """The content of results.json of a cross-validation, read back where it is done."""
    config = CvConfig(prompts=(PromptConfig(),), lrs=(1e-3,), folds=folds, seeds=(0, 1, 2))
    settings = Settings(
        train=TrainConfig(epochs=epochs), memory_bytes=parse_memory("8GB"), precision=precision, compile="off"
    )
    request = Request(study="cv", config=config, settings=settings, output=folder, resume=True)
    return run_study(request, workspace, partial(cross_validate, config), Quiet())


def compared(name: str, arm: str, ours: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """One arm less the default, image by image."""
    (key,) = ours["images"]["f1"]
    f1_N, base_N = (np.array(one["images"]["f1"][key]) for one in (ours, base))
    found = per_image_summary(f1_N - base_N, ours["images"]["patient"], seed=0)
    low, high = found.ci95 or (float("nan"), float("nan"))
    return {
        "set": name,
        "arm": arm,
        "images": found.n,
        "F1": float(f1_N.mean()),
        "less the default": found.mean,
        "95 % from": low,
        "to": high,
        "largest of an image": float(np.abs(f1_N - base_N).max()),
    }


def measure(data: Path, work: Path, epochs: Mapping[str, int], *, folds: int = 5) -> list[dict[str, Any]]:
    rows = []
    for name, budget in epochs.items():
        caches = {dtype: cache_of(name, dtype, data, work) for dtype in {dtype for dtype, _ in ARMS.values()}}
        found = {
            arm: trained(caches[dtype], precision, budget, work / "runs" / name / arm, folds=folds)
            for arm, (dtype, precision) in ARMS.items()
        }
        rows += [compared(name, arm, content, found["default"]) for arm, content in found.items()]
        print(*rows[-len(ARMS) :], sep="\n", flush=True)
    return rows


def targets_of(rows: Sequence[Mapping[str, Any]]) -> list[Target]:
    return [
        Target(f"f1-{row['arm']}-{row['set']}", abs(row["less the default"]), at_most=ALLOWED)
        for row in rows
        if row["arm"] != "default"
    ]


def main(arguments: Sequence[str] | None = None) -> Path:
    parser = parser_of(__doc__)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("-o", "--work", type=Path)
    parser.add_argument("--epochs", default="montgomery=6,shenzhen=2")
    options = parser.parse_args(arguments)
    work = options.work or Path(tempfile.mkdtemp(prefix="lungfast-exact-"))
    data = drawn(work) if options.quick else options.data
    if data is None:
        parser.error("DATA is missing")
    epochs = {
        name: int(number) for name, _, number in (part.partition("=") for part in options.epochs.split(","))
    }
    if options.quick:
        epochs = {"montgomery": 2}  # Adam's first step is the gradient's sign: the same for all
    rows = measure(data, work, epochs, folds=3 if options.quick else 5)
    budget = ", ".join(f"{number} epochs of {name}" for name, number in epochs.items())
    content = {
        "title": "What speed costs in F1",
        "question": f"Five folds of three seeds from points, nano, {budget}: the fp32 step (`--exact`) and "
        "the 8-bit cache less the default, image by image (means over seeds), at native size; intervals are "
        "over patients.",
        "tables": [rows],
        "targets": targets_of(rows),
    }
    path = write_record("exact", content, quick=options.quick)
    print_targets(path)
    return path


if __name__ == "__main__":
    main()
