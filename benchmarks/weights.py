"""SAM with random weights: no trained ones are needed to time an encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from segment_anything import sam_model_registry
from segment_anything.build_sam import _build_sam
from segment_anything.modeling import Sam

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def random_sam(build: Callable[[], Sam], device: str = "cpu") -> Sam:
    """Drawn tensor by tensor: vit_h's own initialisation takes minutes."""
    with torch.device("meta"):
        sam = build()
    sam.to_empty(device=device).eval().requires_grad_(False)
    generator = torch.Generator(device).manual_seed(0)
    for name, value in sam.state_dict().items():
        value.normal_(0, 0.02, generator=generator)
        if "norm" in name and name.endswith("weight"):
            value.add_(1)
    for buffer, values in ((sam.pixel_mean, MEAN), (sam.pixel_std, STD)):  # not part of a checkpoint
        buffer.copy_(torch.tensor(values, device=device).view(3, 1, 1))
    return sam


def random_checkpoint(kind: str, path: Path) -> None:
    """A file as Meta's."""
    sam = random_sam(sam_model_registry[kind], "cuda" if torch.cuda.is_available() else "cpu")
    torch.save(sam.cpu().state_dict(), path)


def tiny_sam() -> Sam:
    """SAM's geometry, two narrow blocks: shows that a benchmark works."""
    return _build_sam(64, 2, 2, [1])
