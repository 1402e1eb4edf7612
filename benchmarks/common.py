"""What every benchmark shares: interleaved timing, the machine's limits, one JSON record per script.

Comes in: named callables. Goes out: seconds per candidate and ``benchmarks/records/NAME.json``, from which
``benchmarks/tables.py`` writes README.md. A record's content holds ``title``, ``question`` and ``tables``: a
list of tables, each a list of rows, each a dict from column to value; ``targets`` are what was asked of it,
``plots`` the curves to be drawn. Hardware and versions are added here.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from lungfast.compute import hardware
from lungfast.files import write_json

_STARTED = time.perf_counter()
RECORDS = Path(__file__).parent / "records"
PACKAGES = (
    "numpy",
    "numba",
    "scipy",
    "torch",
    "torchvision",
    "monai",
    "segment-anything",
    "zarr",
    "transformers",
    "tensorstore",
    "zarrs",
    "h5py",
)


@dataclass(frozen=True)
class Target:
    """A measured value (a ratio, or seconds) and what it should be at least or at most; None: reported."""

    name: str
    value: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def asked(self) -> str:
        if self.at_least is not None:
            return f">={self.at_least:g}"
        return "" if self.at_most is None else f"<={self.at_most:g}"

    @property
    def met(self) -> bool | None:
        """None where nothing was asked."""
        if not self.asked:
            return None
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Curves over one quantity, both axes logarithmic; a line whose name begins with ``limit`` is dashed."""

    name: str
    """Of the file: ``plots/NAME.svg``."""
    title: str
    x: str
    y: str
    lines: Mapping[str, Sequence[tuple[float, float]]]


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """The script's docstring as its help, and ``--quick``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that the script works")
    return parser


def print_targets(path: Path) -> None:
    """Where the record is, and a line per target."""
    print(path)
    for target in map(_target, json.loads(path.read_text(encoding="utf-8"))["targets"]):
        asked = f"target {target.asked}" if target.asked else "reported"
        print(f"{target.name} ratio {target.value:.4g} {asked}")


def _target(content: Mapping[str, Any]) -> Target:
    return Target(**content)


def time_interleaved(
    candidates: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmup: int = 1,
    before: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of each candidate, ``repeats`` times each, in turn: A B C, B C A, C A B, …

    In turn, so that a slow minute of a shared machine hits every candidate; rotated, so that none always runs
    behind the same neighbour's cache. The first ``warmup`` rounds (compilation, page faults) are not counted,
    nor is ``before``, which is called ahead of every candidate.
    """
    names = list(candidates)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warmup, repeats):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            before()
            start = time.perf_counter()
            found = candidates[name]()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - start)
            del found  # what a candidate holds is not its neighbour's burden
    return seconds


def rest() -> None:
    """Longer than OpenMP's threads spin after a route of torch: they would keep a core from the next one."""
    time.sleep(0.05)


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: statistics.median(values) for name, values in seconds.items()}


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Median of the ratios round by round: neighbours in time share the machine's mood."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def measure_copy_rate(n_bytes: int = 256 << 20, repeats: int = 5) -> float:
    """Bytes read plus bytes written per second by one thread's copy of an array larger than the caches."""
    source = np.ones(n_bytes, np.uint8)
    target = np.zeros(n_bytes, np.uint8)
    seconds = time_interleaved({"copy": lambda: np.copyto(target, source)}, repeats=repeats)
    return 2 * n_bytes / min(seconds["copy"])


def measure_device_copy_rate(device: str, n_bytes: int = 4 << 30, repeats: int = 5) -> float:
    """The same inside a device's own memory."""
    import torch

    source = torch.ones(n_bytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)

    def copied() -> None:
        target.copy_(source)
        wait_for(device)

    return 2 * n_bytes / min(time_interleaved({"copy": copied}, repeats=repeats)["copy"])


def measure_matmul_rate(dtype: str, side: int = 2048, repeats: int = 5, device: str = "cpu") -> float:
    """FLOP/s (2 per multiply-add) of torch's square product of random matrices in ``float32``, …"""
    import torch

    # random, not ones: a GPU multiplies those an eighth faster
    left = torch.randn(side, side, device=device).to(getattr(torch, dtype))

    def product() -> None:
        _ = left @ left
        wait_for(device)

    return 2 * side**3 / min(time_interleaved({"product": product}, repeats=repeats)["product"])


def wait_for(device: str) -> None:
    """Until a GPU has done what it was given."""
    import torch

    if device != "cpu":
        torch.cuda.synchronize(device)


def told_missing(row: str, why: str) -> None:
    """A line for a row that cannot be measured here."""
    print(f"{row} skipped: {why}", flush=True)


def not_installed(package: str) -> str:
    return f"{package} is not installed (pip install '.[bench]')"


def commit() -> str:
    """Of the code that was measured, with ``+`` where it was changed since; empty outside a checkout."""
    asked = ("describe", "--always", "--abbrev=10", "--dirty=+", "--exclude=*")
    try:
        found = subprocess.run(
            ["git", *asked], cwd=RECORDS.parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found.stdout.strip()


def versions() -> dict[str, str]:
    """Installed versions of the packages that a figure depends on; absent ones are left out."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_record(name: str, content: dict[str, Any], *, quick: bool) -> Path:
    """Write ``records/NAME.json``; a quick run only shows that the script works: its record is temporary."""
    folder = Path(tempfile.mkdtemp(prefix="lungfast-bench-")) if quick else RECORDS
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    head = {
        "name": name,
        "quick": quick,
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(str(content.get("device", "cpu"))).as_dict(),
        "versions": versions(),
        "commit": commit(),
        "seconds": round(time.perf_counter() - _STARTED, 1),
    }
    lists = {key: [asdict(one) for one in content.get(key, ())] for key in ("targets", "plots")}
    write_json(path, head | content | lists)
    return path
