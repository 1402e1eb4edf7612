"""Generated X-rays of both sets in the official layouts, drawn by every core.

Comes in: how many of each, how large. Goes out: a folder that ``lungfast embed`` reads. What is larger than
2,048 px is drawn at a quarter of its sides and enlarged, with grain of its own: drawn in full, 704 X-rays of
the official sizes would take 16 cores some three minutes, by what one X-ray takes.
"""

from __future__ import annotations

import multiprocessing
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lungfast.compute import cpu_count
from lungfast.data.phantoms import write_montgomery, write_shenzhen

WRITERS: Mapping[str, Any] = {"montgomery": write_montgomery, "shenzhen": write_shenzhen}
OFFICIAL_COUNTS = {"montgomery": 138, "shenzhen": 566}
"""Images that have masks."""
OFFICIAL_SIDES = {"montgomery": 4892, "shenzhen": 3000}
SMALL_SIDES = {"montgomery": 512, "shenzhen": 512}
DRAWN_IN_FULL, FACTOR = 2048, 4
GRAIN = 2.0
"""Deviation in grey levels, so that files are as hard to read as the official ones."""


def draw(folder: Path, counts: Mapping[str, int], sides: Mapping[str, int]) -> Path:
    """``folder`` with MontgomerySet, ChinaSet_AllFiles and shcxr-lung-mask; long sides in px."""
    cores = cpu_count()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as begun_in:
        parts = [
            (Path(begun_in) / f"{name}-{k}", name, len(range(k, count, cores)), k, sides[name])
            for name, count in counts.items()
            for k in range(cores)
            if k < count
        ]
        with multiprocessing.get_context("spawn").Pool(cores) as pool:
            pool.starmap(_draw_part, parts, chunksize=1)
        begun = dict.fromkeys(counts, 0)
        for part, name, n_images, _, _ in parts:
            _merge(part, folder, begun[name])
            begun[name] += n_images
    return folder


def _draw_part(part: Path, name: str, n_images: int, seed: int, side: int) -> None:
    factor = FACTOR if side > DRAWN_IN_FULL else 1
    WRITERS[name](part, n_images, seed=seed, long_side=side // factor)
    if factor > 1:
        rng = np.random.default_rng(seed)
        for path in sorted(part.rglob("*.png")):
            _enlarge(path, factor, rng)


def _enlarge(path: Path, factor: int, rng: np.random.Generator) -> None:
    """A mask by its nearest pixels, a film smoothly and with grain; the file's mode stays."""
    with Image.open(path) as image:
        mode, size = image.mode, (image.width * factor, image.height * factor)
        is_film = path.parent.name == "CXR_png"
        large = (
            image.convert("L").resize(size, Image.Resampling.BICUBIC) if is_film else image.resize(size, 0)
        )
    if is_film:
        grain_HW = GRAIN * rng.standard_normal(large.size[::-1], np.float32)
        grey_HW = np.clip(np.asarray(large) + grain_HW, 0, 255)
        large = Image.fromarray(grey_HW.astype(np.uint8)).convert(mode)
    large.save(path, compress_level=1)


def _merge(part: Path, folder: Path, begun: int) -> None:
    """Files of a part move over, their images counted on from ``begun``."""
    for path in sorted(path for path in part.rglob("*") if path.is_file()):
        number = re.search(r"_(\d{4})_", path.name)
        name = path.name
        if number:
            name = f"{name[: number.start(1)]}{int(number.group(1)) + begun:04d}{name[number.end(1) :]}"
        place = folder / path.relative_to(part).parent
        place.mkdir(parents=True, exist_ok=True)
        path.replace(place / name)
