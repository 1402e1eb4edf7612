"""Measures that need the native mask itself, on request: distances of contours, and the effect of cleaning.

Comes in: logits of test images, as :meth:`Workspace.predict` yields them, and each decoder's threshold. Goes
out: :class:`MaskMeasures` of every image, and their summaries for a row of results.json. Counting needs no
mask and is ten times faster; that is why these are asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from itertools import islice
from typing import Any

import numpy as np

from lungfast.compute import cpu_count
from lungfast.frozen.cache import EmbeddingCache
from lungfast.geometry import Frame, bounding_box, unpack_mask
from lungfast.records import Bool, Float32, Float64, UInt8
from lungfast.scored.cleaning import CLEANING, counts_of_mask, two_largest_filled
from lungfast.scored.kernels import predict_mask
from lungfast.scored.scores import over_folds, per_image_summary, scores_of
from lungfast.studies.comparisons import Side, as_family, compare

MOST_THREADS = 4
"""Masks measured at a time: each takes up to 0.3 GB at 4020x4892."""
READ_AHEAD = 16
"""Logits held for the threads: 16 of 256x256 are 4 MB."""


@dataclass(frozen=True, kw_only=True)
class SurfaceDistances:
    """Contour to contour: 95th percentile Hausdorff and mean symmetric distance; None where undefined.

    In pixels of the file, and in millimetres where the image's spacing is known.
    """

    hd95_px: float | None = None
    assd_px: float | None = None
    hd95_mm: float | None = None
    assd_mm: float | None = None


@dataclass(frozen=True, kw_only=True)
class MaskMeasures:
    """One mask: its F1, and what was asked for besides (None where not asked)."""

    f1: float
    cleaned_f1: float | None
    surface: SurfaceDistances | None


Measured = Sequence[Sequence[MaskMeasures]]
"""For every image the measures of its decoders, one a seed, in the order of the seeds."""


# --- one image, many images ------------------------------------------------------------------------


def mask_measures(
    logits_hw: Float32,
    frame: Frame,
    truth_packed: UInt8,
    threshold: float,
    spacing_mm: tuple[float, float] | None,
    *,
    surface: bool,
    clean: bool,
) -> MaskMeasures:
    """Measures of one image's mask at ``threshold``; distances are those of the mask as predicted."""
    mask_HW = predict_mask(logits_hw, frame, threshold)
    truth_HW = unpack_mask(truth_packed, frame.native_size[1])
    return MaskMeasures(
        f1=_f1(mask_HW, truth_packed),
        cleaned_f1=_f1(two_largest_filled(mask_HW), truth_packed) if clean else None,
        surface=surface_distances(mask_HW, truth_HW, spacing_mm) if surface else None,
    )


def measure_masks(
    cache: EmbeddingCache,
    predictions: Iterable[tuple[int, int, Float32]],
    thresholds_K: Sequence[float],
    *,
    surface: bool,
    clean: bool,
) -> Iterator[tuple[int, int, MaskMeasures]]:
    """(decoder, image, measures) for every (decoder, image, logits), in order, several images at a time."""

    def measure(prediction: tuple[int, int, Float32]) -> tuple[int, int, MaskMeasures]:
        k, image, logits_hw = prediction
        truth_packed, spacing_mm = cache.packed_mask(image), cache.images[image].spacing_mm
        frame, threshold = cache.frame(image), thresholds_K[k]
        measures = mask_measures(
            logits_hw, frame, truth_packed, threshold, spacing_mm, surface=surface, clean=clean
        )
        return k, image, measures

    waiting = iter(predictions)
    with ThreadPoolExecutor(min(cpu_count(), MOST_THREADS)) as pool:
        while chunk := list(islice(waiting, READ_AHEAD)):
            yield from pool.map(measure, chunk)


def surface_distances(
    mask_HW: Bool, truth_HW: Bool, spacing_mm: tuple[float, float] | None
) -> SurfaceDistances:
    """HD95 and symmetric mean distance by MONAI; all None where a mask is empty and so has no contour.

    Equal to MONAI's ``compute_hausdorff_distance(percentile=95)`` and
    ``compute_average_surface_distance(symmetric=True)``, but the contours are found once for both and for
    both units: 0.8 s at 4020x4892, not 4.8 s. Only the box around both masks is looked at, which changes
    nothing: MONAI takes what is outside an image as background, as everything outside the box is.
    """
    box = bounding_box(mask_HW | truth_HW)
    if box is None or not (mask_HW.any() and truth_HW.any()):
        return SurfaceDistances()
    from monai.metrics.utils import get_mask_edges, get_surface_distance  # 7 s

    ours, theirs = get_mask_edges(mask_HW[box], truth_HW[box], crop=False)

    def distances(spacing: tuple[float, float] | None) -> tuple[float, float]:
        there = get_surface_distance(ours, theirs, spacing=spacing)
        back = get_surface_distance(theirs, ours, spacing=spacing)
        hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
        return float(hd95), float(np.concatenate([there, back]).mean())

    hd95_px, assd_px = distances(None)
    hd95_mm, assd_mm = distances(spacing_mm) if spacing_mm else (None, None)
    return SurfaceDistances(hd95_px=hd95_px, assd_px=assd_px, hd95_mm=hd95_mm, assd_mm=assd_mm)


def _f1(mask_HW: Bool, truth_packed: UInt8) -> float:
    return float(scores_of(counts_of_mask(mask_HW, truth_packed)).f1_Q[0])


# --- summaries for a row of results ----------------------------------------------------------------


def surface_summary(measured_N: Measured, patients: Sequence[str], *, seed: int = 0) -> dict[str, Any]:
    """Each distance over the images that have it, a mean over seeds each.

    ``n_undefined`` counts the masks without distances: predicted or true ones that are empty.
    """
    found_N = [[one.surface for one in measured if one.surface] for measured in measured_N]
    summary: dict[str, Any] = {}
    for name in (field.name for field in fields(SurfaceDistances)):
        values_N = [[v for one in found if (v := getattr(one, name)) is not None] for found in found_N]
        known = [n for n, values in enumerate(values_N) if values]
        means_N = np.array([np.mean(values_N[n]) for n in known])
        owners = [patients[n] for n in known]
        summary[name] = asdict(per_image_summary(means_N, owners, seed=seed)) if known else None
    return summary | {"n_undefined": sum(one.hd95_px is None for found in found_N for one in found)}


def cleaned_summary(
    measured_N: Measured,
    folds_N: Sequence[Any],
    patients: Sequence[str],
    *,
    n_train: float,
    n_test: float,
    seed: int = 0,
) -> dict[str, Any]:
    """F1 of the cleaned masks, and cleaned - plain on the same images, as a family of its own."""
    cleaned_NR, plain_NR = _f1_of(measured_N, "cleaned_f1"), _f1_of(measured_N, "f1")
    cleaned, plain = _side("cleaned", cleaned_NR, folds_N), _side("plain", plain_NR, folds_N)
    compared = compare(cleaned, plain, patients, n_train=n_train, n_test=n_test, seed=seed)
    return {
        "name": CLEANING,
        "f1": asdict(over_folds(cleaned.folds_J)),
        "f1_image": asdict(per_image_summary(cleaned.images_N, patients, seed=seed)),
        "difference": as_family("cleaned", [compared])[0],
    }


def _f1_of(measured_N: Measured, name: str) -> Float64:
    """(images, seeds)."""
    f1_NR = np.array([[getattr(one, name) for one in measured] for measured in measured_N], np.float64)
    if np.isnan(f1_NR).any():
        raise ValueError(f"{name} was not asked for when the masks were measured")
    return f1_NR


def _side(name: str, f1_NR: Float64, folds_N: Sequence[Any]) -> Side:
    """Means over seeds, by image and by fold; folds in the order in which they appear."""
    folds = list(dict.fromkeys(folds_N))
    of_fold_N = np.array([folds.index(fold) for fold in folds_N])
    f1_N = f1_NR.mean(axis=1)
    return Side(
        name=name,
        images_N=f1_N,
        folds_J=[float(f1_N[of_fold_N == fold].mean()) for fold in range(len(folds))],
    )
