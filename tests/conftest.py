"""Fixtures shared by the rooms: generated X-rays, a nano cache of them, the real data where it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lungfast import frozen, scored
from lungfast.commands import main


def pytest_configure() -> None:
    """Kernels compiled by an earlier run are dropped where one of their sources is younger.

    numba's cache on disk sees changes of a function's own file, not of those that it calls.
    """
    _take_a_core()
    for room in (Path(one.__file__).parent for one in (frozen, scored)):
        youngest = max(path.stat().st_mtime for path in room.glob("*.py"))
        for kernel in room.glob("__pycache__/*.nbi"):
            if kernel.stat().st_mtime < youngest:
                kernel.unlink(missing_ok=True)


def _take_a_core() -> None:
    """A worker of pytest-xdist keeps to a core of its own: threads of several would wait for each other."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of LUNGFAST_DATA; tests that use it skip without."""
    folder = os.environ.get("LUNGFAST_DATA")
    if not folder:
        pytest.skip("LUNGFAST_DATA is not set: no real X-rays to read")
    return Path(folder)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """15 generated X-rays in Montgomery's layout and 6 (one without mask) in Shenzhen's, 192 px long."""
    from lungfast.data.phantoms import write_montgomery, write_shenzhen

    folder = tmp_path_factory.mktemp("phantoms")
    write_montgomery(folder, 15, seed=3, long_side=192)
    write_shenzhen(folder, 6, seed=3, long_side=192, n_without_mask=1)
    return folder


@pytest.fixture(scope="session")
def nano_cache(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Montgomery phantoms, embedded by nano. Read only."""
    url = str(tmp_path_factory.mktemp("caches") / "m.zarr")
    result = CliRunner().invoke(main, ["embed", "montgomery", str(phantoms), "-o", url])
    assert result.exit_code == 0, result.output
    return url


@pytest.fixture(scope="session")
def vit_b() -> Any:
    """segment-anything's Sam, random; parameters that start at zero (positions) are made random too."""
    import torch
    from segment_anything import sam_model_registry

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        sam = sam_model_registry["vit_b"]()
        for name, parameter in sam.named_parameters():
            if "pos" in name:
                parameter.data.normal_(0, 0.02)
    return sam


@pytest.fixture(scope="session")
def vit_b_file(vit_b: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    import torch

    # 375 MB: made once, removed at the end
    path = tmp_path_factory.mktemp("sam") / "sam_vit_b_01ec64.pth"
    torch.save(vit_b.state_dict(), path)
    yield path
    path.unlink()


@pytest.fixture(scope="session")
def trained_run(nano_cache: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished cv on the phantoms: three folds of points and box, trained for one epoch. Read only."""
    run = tmp_path_factory.mktemp("trained") / "cv"
    tiny = ["--epochs", "1", "--folds", "3", "--compile", "off", "--precision", "fp32"]
    result = CliRunner().invoke(main, ["cv", nano_cache, "--prompt", "points,box", *tiny, "-o", str(run)])
    assert result.exit_code == 0, result.output
    return run
