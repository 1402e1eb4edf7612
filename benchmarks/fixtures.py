"""Logits to score, kept as a file: of a trained decoder, and how soft or saturated they could be.

    python -m benchmarks.fixtures      writes benchmarks/fixtures.npz: minutes on 2 cores, seeded

``trained``: a decoder of SAM's size (nano's 32x32 tokens, stretched to 64x64) after 60 epochs on generated
X-rays of 4020x4892, on one it has not seen. ``soft`` is the same field blurred and flat, so that most of it
lies between the thresholds; ``saturated`` is ten times as steep.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from lungfast.geometry import Frame, unpack_mask
from lungfast.records import Bool, Float32, Sample

PATH = Path(__file__).with_name("fixtures.npz")
N_IMAGES = 24
KINDS = ("trained", "soft", "saturated")


@dataclass(frozen=True, kw_only=True, eq=False)
class Fixture:
    """One image's logits (h, w) by kind, its geometry, its native truth."""

    logits_hw: Mapping[str, Float32]
    frame: Frame
    truth_HW: Bool


def read_fixture() -> Fixture:
    with np.load(PATH) as file:
        size = (int(file["native_size"][0]), int(file["native_size"][1]))
        trained_hw = file["trained"].astype(np.float32)
        truth_HW = unpack_mask(file["truth_packed"], size[1])
    return Fixture(
        logits_hw={
            "trained": trained_hw,
            "soft": 0.1 * ndimage.gaussian_filter(trained_hw, 12.0),
            "saturated": 10 * trained_hw,
        },
        frame=Frame.of(size, 4 * trained_hw.shape[0], "longest"),
        truth_HW=truth_HW,
    )


def main() -> None:
    import h5py

    from lungfast.api import CvConfig, Lab, prompts

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        url = f"{folder}/x.zarr"
        write_stretched(url, folder, N_IMAGES)
        lab = Lab(url)
        config = CvConfig(prompts=prompts("points"), lrs=(1e-3,), folds=5)
        row = lab.run(config, folder / "cv", epochs=60, save_logits=True)["rows"][0]
        print(f"test F1 {row['f1']['mean']:.4f}")
        cache = lab.workspace.cache
        with h5py.File(folder / "cv" / "logits-test.h5") as file:
            scored: Any = next(iter(file.values()))
            image_id = next(iter(scored))
            logits_hw = scored[image_id][:]
        image = next(i for i, record in enumerate(cache.images) if record.id == image_id)
        np.savez_compressed(
            PATH,
            trained=logits_hw.astype(np.float16),
            native_size=np.array(cache.images[image].native_size),
            truth_packed=cache.packed_mask(image),
        )
    print(PATH)


def write_stretched(url: str, folder: Path, n_images: int) -> None:
    """Generated X-rays of Montgomery's size (drawn into ``folder``), their nano tokens at SAM's grid."""
    import torch
    import torch.nn.functional as F

    from benchmarks.caches import write_cache
    from lungfast.data.datasets import list_montgomery
    from lungfast.data.phantoms import write_montgomery
    from lungfast.frozen.encoders import load_encoder

    write_montgomery(folder, n_images, seed=11, long_side=4892)
    nano = load_encoder("nano", device=torch.device("cpu"))
    spec = replace(nano.spec, name="stretched", input_size=1024, grid=(64, 64))

    def rows() -> Iterator[tuple[Sample, Float32]]:
        for ref in list_montgomery(folder).refs:
            sample = ref.load()
            tokens_NC = torch.from_numpy(nano.encode([sample.image_HW])[0])
            square = tokens_NC.T.reshape(1, -1, *nano.spec.grid)
            stretched = F.interpolate(square, spec.grid, mode="bilinear").flatten(2)[0].T
            yield sample, stretched.contiguous().numpy()

    write_cache(url, rows(), n_images, spec=spec, head=nano.head)


if __name__ == "__main__":
    main()
