"""A vit_b with random weights, and its checkpoint file: made once, as it weighs 375 MB."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def vit_b() -> Any:
    """segment-anything's Sam; parameters that start at zero (positions) are made random too."""
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

    path = tmp_path_factory.mktemp("sam") / "sam_vit_b_01ec64.pth"
    torch.save(vit_b.state_dict(), path)
    yield path
    path.unlink()
