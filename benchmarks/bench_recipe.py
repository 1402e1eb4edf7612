"""Which settings earn their place in the ``best`` recipe, and at what cost?

    python -m benchmarks.bench_recipe DATA -o WORK [--arms NAME,NAME] [--sets montgomery,shenzhen]

Arms that matter most are trained on both sets, the others on one.

DATA holds MontgomerySet/ and ChinaSet_AllFiles/. Both sets are embedded by nano with altered views (WORK
keeps caches and runs; what is finished is not done again). Every arm differs from the recipe in what its name
says. It is trained on fold 0's training images of one set, and judged on that fold's validation images and on
*all* images of the other set, which no decoder here has trained on. Test images of the set itself are never
scored: a choice made with them could not be believed afterwards.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import parser_of, print_targets, write_record
from benchmarks.judging import Lists, judge
from lungfast.compute import parse_memory
from lungfast.data.datasets import list_montgomery, list_shenzhen
from lungfast.data.phantoms import write_montgomery, write_shenzhen
from lungfast.data.views import ViewConfig
from lungfast.files import write_json
from lungfast.frozen.encoders import Encoder, load_encoder
from lungfast.records import Listing
from lungfast.runs import read_json
from lungfast.studies.embed import EmbedConfig, embed
from lungfast.studies.recipes import BEST, TrainingRecipe
from lungfast.studies.session import Quiet, Request, run_study
from lungfast.studies.workspace import Workspace

SETS: dict[str, Callable[[Path], Listing]] = {
    "montgomery": list_montgomery,
    "shenzhen": lambda folder: list_shenzhen(folder, None),
}
PLAIN = ViewConfig(gamma=1, contrast=1, brightness=0, share_rough=0)
KINDS: dict[str, ViewConfig] = {
    "both": ViewConfig(),
    "geometry": PLAIN,
    "exposure": ViewConfig(rotation_deg=0, scale=1, stretch=1, shift=0),
    "wider": ViewConfig(rotation_deg=15, scale=1.25, stretch=1.1, shift=0.15, gamma=2.0, contrast=1.5),
    "negatives": ViewConfig(share_inverted=0.1),
}


ON_BOTH = {
    "no high-resolution features",
    "no views",
    "16 views",
    "1 point a lung",
    "one-cycle rate",
    "lr x 2",
    "three seeds of a third of the epochs",
}
MEASURED = (
    "val",
    "val, one view",
    "val, together",
    "val, cleaned",
    "away",
    "away, one view",
    "away, together",
)
QUESTION = (
    "Which settings of the `best` recipe earn their place, and at what cost? Each arm is the recipe but for "
    "what its name says, trained on fold 0 of Montgomery (M) or Shenzhen (S), from points, with nano. `val`: "
    "mean F1 per image at native size on the validation images of fold 0, each decoder at its own best "
    "threshold; `one view`: not averaged over views; `together`: the mean logits of the seeds; `cleaned`: "
    "two largest components, holes filled; `away`: all images of the other set, at the threshold of the set "
    "that was trained on. No test image of the set itself was scored. Where an arm was not trained on a "
    "set its cells are empty. One seed: an arm trained in bf16 and again in fp32 differed by 0.0004 (`val`) "
    "and 0.0010 (`away`), and nothing below that is told apart."
)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row of the table: the recipe, and the kind of views that its cache holds."""

    recipe: TrainingRecipe
    kind: str = "both"
    sets: Sequence[str] = ("montgomery",)
    """Which it is trained on."""
    input_size: int | None = None
    """nano asked for images of another size than it ships for; then the other set is not looked at."""


def arms() -> dict[str, Arm]:
    """The recipe first; then each setting taken back, or pushed further."""
    made = {"best": Arm(recipe=BEST, sets=tuple(SETS))}
    changes: dict[str, Mapping[str, Any]] = {
        "no high-resolution features": {"high_res": False},
        "no views": {"views": 1, "test_views": 1},
        "views at test alone": {"views": 1},
        "4 views": {"views": 4},
        "16 views": {"views": 16},
        "no average": {"average": 0.0},
        "one-cycle rate": {"schedule": "onecycle"},
        "last epoch": {"keep": "last"},
        "stopped after 5 validations without gain": {"patience": 5},
        "DiceCE": {"losses": ("dicece",)},
        "1 point a lung": {"points_per_lung": 1},
        "points spread": {"placement": "spread"},
        "no jitter": {"point_jitter": 0.0},
        "jitter 3 %": {"point_jitter": 0.03},
        "half the epochs": {
            "images": BEST.images // 2,
            "epochs_least": BEST.epochs_least // 2,
            "epochs_most": BEST.epochs_most // 2,
        },
        "twice the epochs": {"images": BEST.images * 2, "epochs_most": BEST.epochs_most * 2},
        "lr x 0.5": {"lrs": (BEST.lrs[0] / 2,)},
        "lr x 2": {"lrs": (BEST.lrs[0] * 2,)},
        "wd 1e-4": {"wds": (1e-4,)},
        "batch 4": {"batch_size": 4},
        "three seeds": {"seeds": 3},
        "three seeds of a third of the epochs": {
            "seeds": 3,
            "images": BEST.images // 3,
            "epochs_least": BEST.epochs_least // 3,
            "epochs_most": BEST.epochs_most // 3,
        },
    }
    for name, change in changes.items():
        sets = tuple(SETS) if name in ON_BOTH else ("montgomery",)
        made[name] = Arm(recipe=replace(BEST, **change), sets=sets)
    fewer = replace(BEST, images=BEST.images * 3 // 4)  # Montgomery's epochs are as many
    made["a quarter fewer images"] = Arm(recipe=fewer, sets=("shenzhen",))
    made |= {f"input of {side} px": Arm(recipe=BEST, input_size=side) for side in (192, 320)}
    return made | {f"views: {kind}": Arm(recipe=BEST, kind=kind) for kind in KINDS if kind != "both"}


def quick_arms() -> dict[str, Arm]:
    """Two arms of one epoch."""
    tiny = replace(BEST, images=1, epochs_least=1, views=2, test_views=2, seeds=1)
    return {"best": Arm(recipe=tiny), "no views": Arm(recipe=replace(tiny, views=1, test_views=1))}


class Bench:
    """Caches and runs in one folder."""

    def __init__(self, data: Path, work: Path, encoder: Encoder) -> None:
        self._data, self._work, self._encoder = data, work, encoder
        self._open: dict[str, Workspace] = {}

    def workspace(self, name: str, kind: str, views: int, side: int | None) -> Workspace:
        """The cache of a set, made if it is not there; ``kind`` "both" has as many views as any arm wants."""
        url = self._work / f"{name}-{kind}-{views}{'' if side is None else f'-{side}px'}.zarr"
        if str(url) not in self._open:
            started = time.perf_counter()
            config = EmbedConfig(url=str(url), views=views, altered=KINDS[kind])
            done = embed(SETS[name](self._data), at_size(self._encoder, side), config, Quiet()).embedded
            if done:
                write_json(url.with_suffix(".json"), {"seconds": time.perf_counter() - started})
            self._open[str(url)] = Workspace(str(url), device=torch.device("cpu"))
        return self._open[str(url)]

    def embeddings(self) -> list[dict[str, Any]]:
        """What the views cost, where they were made by this script."""
        return [
            {"cache": path.stem, "embedding s": round(read_json(path)["seconds"])}
            for path in sorted(self._work.glob("*.json"))
        ]

    def run(self, name: str, arm: Arm, train: str, other: str, most_views: int) -> dict[str, Any]:
        """One arm, trained on one set; read back where it is done."""
        side = arm.input_size
        views = most_views if arm.kind == "both" and side is None else BEST.views
        home = self.workspace(train, arm.kind, views, side)
        away = None if side else self.workspace(other, arm.kind, views, None)
        recipe = arm.recipe
        lists = Lists(
            prompts=(recipe.prompt("points"),),
            lrs=recipe.lrs,
            wds=recipe.wds,
            losses=recipe.losses,
            seeds=tuple(range(recipe.seeds)),
            kind=arm.kind,
            views=KINDS[arm.kind],
            input_size=side,
            other=away and away.cache.fingerprint.data_sha256,
        )
        folder = self._work / "runs" / train / name.replace(" ", "_").replace("%", "percent")
        settings = recipe.settings_for(home.cache, lists.folds, memory_bytes=parse_memory("8GB"))
        request = Request(study="ablation", config=lists, settings=settings, output=folder, resume=True)
        return run_study(request, home, partial(judge, lists, away), Quiet())


def at_size(encoder: Encoder, side: int | None) -> Encoder:
    """The same weights for images of another size: nano is convolutions, and positions that are stretched."""
    if side is None:
        return encoder
    cell = encoder.spec.input_size // encoder.spec.grid[0]
    return replace(encoder, spec=replace(encoder.spec, input_size=side, grid=(side // cell, side // cell)))


def table_row(name: str, found: Mapping[str, Mapping[str, Any]], sets: Sequence[str]) -> dict[str, Any]:
    """``found``: results by the set that was trained on; what was not run stays empty."""
    row: dict[str, Any] = {"arm": name}
    for train in sets:
        head = f"{train[0].upper()}: "
        one = found[train]["rows"][0] if train in found else None
        row |= {f"{head}{of}": round(one["f1"][of], 4) if one and of in one["f1"] else "" for of in MEASURED}
        row[f"{head}training s"] = round(one["seconds"]) if one else ""
    return row


def drawn(folder: Path) -> Path:
    """Phantoms in both layouts, to show that the script works."""
    data = folder / "phantoms"
    if not data.exists():
        write_montgomery(data, 10, seed=0, long_side=192)
        write_shenzhen(data, 10, seed=0, long_side=192)
    return data


def main(arguments: Sequence[str] | None = None) -> Path:
    parser = parser_of(__doc__)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("-o", "--work", type=Path)
    parser.add_argument("--arms", help="names, separated by commas; by default all")
    parser.add_argument("--sets", default="montgomery,shenzhen", help="sets to train on")
    options = parser.parse_args(arguments)
    known = quick_arms() if options.quick else arms()
    work = options.work or Path(tempfile.mkdtemp(prefix="lungfast-recipe-"))
    data = drawn(work) if options.quick else options.data
    if data is None:
        parser.error("DATA is missing")
    names = options.arms.split(",") if options.arms else list(known)
    most_views = max(max(known[name].recipe.views, known[name].recipe.test_views) for name in names)
    bench = Bench(data, work, load_encoder("nano", device=torch.device("cpu"), high_res=True))
    others = dict(zip(SETS, reversed(SETS), strict=True))
    rows, sets = [], options.sets.split(",")
    for name in names:
        found = {
            train: bench.run(name, known[name], train, others[train], most_views)
            for train in known[name].sets
            if train in sets
        }
        rows.append(table_row(name, found, sets))
        print(rows[-1], flush=True)
    content = {
        "title": "The best recipe, setting by setting",
        "question": QUESTION,
        "tables": [table for table in (rows, bench.embeddings()) if table],
        "device": "cpu",
    }
    path = write_record("recipe", content, quick=options.quick)
    print_targets(path)
    return path


if __name__ == "__main__":
    main()
