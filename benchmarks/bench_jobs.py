"""How long do whole jobs take, started as a user starts them? Seconds of ``lungfast`` processes.

    python -m benchmarks.bench_jobs [--quick] [--data DIR] [--jobs NAME,NAME] [--epochs 100,60,20]
        [--drawn DIR] [--work DIR]

``grid``: Montgomery embedded, then its 3x3 grid at 100 epochs. ``cv``: both sets embedded, then five folds of
each (60 epochs of Montgomery, 20 of Shenzhen, which is four times as large). ``best-montgomery`` and
``best-shenzhen``: a set embedded and its five folds, both with ``--recipe best``. With nano, on all cores.
``paper`` needs CUDA: 704 X-rays generated at the official sizes and a ViT-H checkpoint of random weights are
written and not timed; then embedding, grid, thresholds, five folds with three prompts, and transfer.

X-rays are those of --data or $LUNGFAST_DATA (official layouts), else generated ones. Other --epochs are a
look: nothing is asked of them and nothing is recorded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import films
from benchmarks.common import Target, parser_of, print_targets, write_record
from benchmarks.weights import random_checkpoint
from lungfast.compute import cpu_count

EPOCHS = (100, 60, 20)
"""Of the grid, of Montgomery's folds, of Shenzhen's."""
BOUNDS = {"grid": 600.0, "cv": 900.0, "best-montgomery": 720.0, "best-shenzhen": 1500.0, "paper": 300.0}
LUNGFAST = "import sys; from lungfast.commands import main; main(sys.argv[1:])"


@dataclass(frozen=True)
class Place:
    """Where everything goes, how long is trained, where the X-rays are, with which encoder."""

    folder: Path
    epochs: Sequence[int]
    data: Path
    encoder: Sequence[str] = ()

    def cache(self, name: str) -> str:
        return str(self.folder / f"{name}.zarr")

    def run(self, name: str) -> str:
        return str(self.folder / name)

    def embed(self, name: str) -> list[str]:
        masks = ["--masks", str(self.data / "shcxr-lung-mask")] if name == "shenzhen" else []
        return ["embed", name, str(self.data), *masks, "-o", self.cache(name), *self.encoder, "--overwrite"]


Command = tuple[str, list[str]]
"""What it does, and how it is given to ``lungfast``."""


def grid_job(place: Place) -> list[Command]:
    return [("embed Montgomery", place.embed("montgomery")), grid_command(place)]


def grid_command(place: Place) -> Command:
    rates = ["--lr", "1e-5,1e-4,1e-3", "--wd", "0,1e-1,1e-3", "--epochs", str(place.epochs[0])]
    return "3x3 grid of Montgomery", ["grid", place.cache("montgomery"), *rates, "-o", place.run("grid")]


def cv_job(place: Place) -> list[Command]:
    sets = ("montgomery", "shenzhen")
    embedded = [(f"embed {name.capitalize()}", place.embed(name)) for name in sets]
    return [*embedded, *(cv_command(place, name) for name in sets)]


def cv_command(place: Place, name: str, prompts: str = "points") -> Command:
    epochs = place.epochs[1 if name == "montgomery" else 2]
    options = ["--prompt", prompts, "--lr", "1e-3", "--epochs", str(epochs), "--folds", "5"]
    what = f"five folds of {name.capitalize()}" + (f", {prompts}" if "," in prompts else "")
    return what, ["cv", place.cache(name), *options, "-o", place.run(f"cv-{name}")]


def best_job(name: str, place: Place) -> list[Command]:
    recipe = ["--recipe", "best"]
    shorter = [] if tuple(place.epochs) == EPOCHS else ["--epochs", str(place.epochs[1])]
    options = ["--prompt", "points", *recipe, *shorter, "-o", place.run(f"best-{name}")]
    return [
        (f"embed {name.capitalize()} in 8 views", [*place.embed(name), *recipe]),
        (f"five folds of {name.capitalize()}, best", ["cv", place.cache(name), *options]),
    ]


def paper_job(place: Place) -> list[Command]:
    sets, epochs = ("montgomery", "shenzhen"), str(place.epochs[0])
    caches = [place.cache(name) for name in sets]
    runs = [place.run(f"cv-{name}") for name in sets]
    return [
        *((f"embed {name.capitalize()} with vit_h", place.embed(name)) for name in sets),
        grid_command(place),
        ("thresholds", ["thresholds", caches[0], "--epochs", epochs, "-o", place.run("thresholds")]),
        *(cv_command(place, name, "points,box,both") for name in sets),
        ("transfer, both ways", ["transfer", *caches, "--runs", *runs, "-o", place.run("transfer")]),
    ]


JOBS: Mapping[str, Callable[[Place], list[Command]]] = {
    "grid": grid_job,
    "cv": cv_job,
    "best-montgomery": partial(best_job, "montgomery"),
    "best-shenzhen": partial(best_job, "shenzhen"),
    "paper": paper_job,
}


def measure(job: str, place: Place) -> tuple[list[dict[str, Any]], float]:
    """Seconds of every command, and of all."""
    table: list[dict[str, Any]] = []
    total = 0.0
    for what, command in JOBS[job](place):
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", LUNGFAST, *command], capture_output=True, text=True, check=False
        )
        seconds = time.perf_counter() - started
        if done.returncode != 0:
            raise SystemExit(f"lungfast {' '.join(command)}\n{done.stdout}{done.stderr}")
        total += seconds
        table.append({f"job {job}": what, "s": round(seconds, 1)} | _f1(Path(command[-1])))
        print(table[-1], flush=True)
    table.append({f"job {job}": "all", "s": round(total, 1)})
    return table, total


def _f1(run: Path) -> dict[str, float]:
    """Test F1 of a finished grid's winner, or of the folds."""
    path = run / "results.json"
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("best"):
        return {"test F1": round(content["best"]["test"]["f1"], 4)}
    rows = [row["f1"]["mean"] for row in content.get("rows", ()) if "f1" in row]
    return {"test F1": round(rows[0], 4)} if rows else {}


def xrays(data: Path | None, folder: Path, *, quick: bool) -> tuple[Path, str]:
    """A folder in the official layouts, and in words what it holds."""
    given = data or os.environ.get("LUNGFAST_DATA")
    if given and not quick:
        return Path(given), "the real X-rays"
    counts = {"montgomery": 10, "shenzhen": 12} if quick else films.OFFICIAL_COUNTS
    films.draw(folder, counts, films.SMALL_SIDES)
    return folder, f"{sum(counts.values())} generated X-rays of 512 px"


def of_the_paper(folder: Path, drawn: Path | None) -> tuple[Path, list[str]]:
    """What ``paper`` reads: X-rays as large as the official ones, a ViT-H checkpoint; neither is timed."""
    checkpoint, official = folder / "random_vit_h.pth", drawn or folder / "official"
    random_checkpoint("vit_h", checkpoint)
    if not (official / "ChinaSet_AllFiles").exists():  # films come there when all are drawn
        films.draw(official, films.OFFICIAL_COUNTS, films.OFFICIAL_SIDES)
    return official, ["--checkpoint", str(checkpoint)]


def run(
    jobs: Sequence[str],
    epochs: Sequence[int],
    data: Path | None,
    *,
    drawn: Path | None = None,
    work: Path | None = None,
    quick: bool,
) -> Path:
    is_look = tuple(epochs) != EPOCHS
    tables, targets, read = [], [], "nothing"
    with tempfile.TemporaryDirectory() as name:
        for job in jobs:
            folder = (work or Path(name)) / job
            folder.mkdir(parents=True)
            if job == "paper":
                place = Place(folder, epochs, *of_the_paper(folder, drawn))
            else:
                found, read = xrays(data, Path(name) / "xrays", quick=quick)
                place = Place(folder, epochs, found)
            table, seconds = measure(job, place)
            tables.append(table)
            targets.append(Target(f"job-{job}", seconds, at_most=None if is_look else BOUNDS[job]))
    content = {
        "title": f"Whole jobs: {', '.join(jobs)}",
        "question": f"Processes from their start to their end; {read}, nano, {cpu_count()} cores; the grid "
        f"at {epochs[0]} epochs, folds at {epochs[1]} (Montgomery) and {epochs[2]} (Shenzhen), those of the "
        "best recipe at its own budget. The paper's job: generated X-rays of the official sizes, a ViT-H of "
        "random weights, a GPU.",
        "device": "cuda" if "paper" in jobs else "cpu",
        "tables": tables,
        "targets": targets,
    }
    return write_record(record_of(jobs), content | {"script": "bench_jobs.py"}, quick=quick or is_look)


def record_of(jobs: Sequence[str]) -> str:
    """Jobs that take long or another machine have a record of their own where they run alone."""
    kinds = {job if job.startswith("best") or job == "paper" else "" for job in jobs}
    return "-".join(["jobs", *(kinds if len(kinds) == 1 else [])]).rstrip("-")


def main(arguments: Sequence[str] | None = None) -> Path:
    import torch

    parser = parser_of(__doc__)
    parser.add_argument("--data", type=Path, help="a folder that holds MontgomerySet and ChinaSet_AllFiles")
    parser.add_argument("--drawn", type=Path, help="where paper's X-rays are kept from run to run")
    parser.add_argument("--work", type=Path, help="where caches and runs stay [default: removed at the end]")
    parser.add_argument("--jobs", default="", help=f"of {', '.join(JOBS)} [default: those that can run here]")
    parser.add_argument("--epochs", default="", help="of the grid and of each set's folds: a shorter look")
    options = parser.parse_args(arguments)
    possible = [job for job in JOBS if job != "paper" or torch.cuda.is_available()]
    asked = options.jobs.split(",") if options.jobs else possible
    for job in set(asked) - set(possible):
        parser.error(f"job {job} cannot run here: " + ("no CUDA device" if job in JOBS else "unknown"))
    epochs = tuple(map(int, options.epochs.split(","))) if options.epochs else EPOCHS
    if len(epochs) != len(EPOCHS):
        parser.error(f"--epochs {options.epochs}: expected three numbers, such as 10,6,2")
    epochs = (1, 1, 1) if options.quick else epochs
    kept = {"drawn": options.drawn, "work": options.work}
    path = run(asked, epochs, options.data, **kept, quick=options.quick)
    print_targets(path)
    if "paper" not in possible:
        print("job-paper skipped: no CUDA device")
    return path


if __name__ == "__main__":
    main()
