"""Which images the decoders of another set meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lungfast.errors import DataError
from lungfast.records import Int64
from lungfast.runs import open_run
from lungfast.studies import transfer as study
from lungfast.studies.meeting import Site
from lungfast.studies.models import FinishedRun
from lungfast.studies.session import Quiet
from lungfast.studies.workspace import Workspace


def site(name: str, cache: str, run: Path, monkeypatch: pytest.MonkeyPatch, *, shared: set[int]) -> Site:
    """The run's set, as if all images but the shared ones had other pixels."""
    workspace = Workspace(cache, device=torch.device("cpu"))
    images = [
        one if i in shared else replace(one, content_sha256=f"{name}{i:063x}")
        for i, one in enumerate(workspace.cache.images)
    ]
    monkeypatch.setattr(workspace.cache, "images", tuple(images))
    return Site(name=name, workspace=workspace, run=FinishedRun.open(run))


def test_images_that_both_sets_have_are_met_by_no_decoder(
    trained_run: Path, nano_cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (site(name, nano_cache, trained_run, monkeypatch, shared={2, 11}) for name in "ab")
    met: list[Mapping[str, Int64]] = []

    def heard(train: Site, test: Site, key: str, kept: Mapping[str, Int64], *_: Any) -> None:
        met.append(kept)
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "meet", heard)
    body = study.transfer(study.config_of(a, b, "points"), a, b, 4 << 30, Quiet())
    with open_run(tmp_path / "run", {}) as run, pytest.raises(KeyboardInterrupt):
        body(run, {})
    assert sorted(np.concatenate(list(met[0].values())).tolist()) == sorted({*range(15)} - {2, 11})
    for fold, images in b.test_images().items():
        np.testing.assert_array_equal(met[0][fold], [i for i in images if i not in {2, 11}])


def test_a_fold_without_images_of_its_own_is_refused(
    trained_run: Path, nano_cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = site("w", nano_cache, trained_run, monkeypatch, shared=set())
    fold, images = next(iter(whole.test_images().items()))
    a, b = (site(n, nano_cache, trained_run, monkeypatch, shared=set(images.tolist())) for n in "ab")
    with pytest.raises(DataError, match=f"no image is left to test {fold} of a"):
        study.transfer(study.config_of(a, b, "points"), a, b, 4 << 30, Quiet())
