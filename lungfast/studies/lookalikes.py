"""Images that look alike without having the same pixels: a perceptual hash of the previews of two caches.

The hash is pHash: the lowest frequencies of the preview's cosine transform, each above their median or not.
Chest X-rays resemble each other, so a match is a hint to look at, never a reason to drop an image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import fft

from lungfast.frozen.cache import EmbeddingCache
from lungfast.geometry import resize_image
from lungfast.records import Bool, UInt8

SIDE, LOW = 64, 16
"""The preview shrunk to 64x64, and its 16x16 lowest frequencies: 255 bits without the mean."""
CLOSEST = 32
"""Bits that may differ, an eighth. On 138 and 566 X-rays, copies through JPEG at half size differed by 4 bits
at most, with gamma 0.7 by 20, shifted by 1 % by 32; the closest two of different sets by 66."""


def look_alikes(a: EmbeddingCache, b: EmbeddingCache) -> list[dict[str, Any]] | None:
    """Pairs within :data:`CLOSEST` bits, closest first; None where a cache has no previews.

    Pairs with the very same pixels are left out: they are known by their hash.
    """
    if not (a.has_pixels and b.has_pixels):
        return None
    a_NX, b_NX = _hashes(a), _hashes(b)
    pairs = []
    for i, bits_X in enumerate(a_NX):
        distance_N = np.count_nonzero(b_NX != bits_X, axis=1)
        for j in np.flatnonzero(distance_N <= CLOSEST).tolist():
            if a.images[i].content_sha256 != b.images[j].content_sha256:
                pairs.append({"a": a.images[i].id, "b": b.images[j].id, "distance": int(distance_N[j])})
    return sorted(pairs, key=lambda pair: (pair["distance"], pair["a"], pair["b"]))


def _hashes(cache: EmbeddingCache) -> Bool:
    return np.stack([perceptual_hash(cache.picture(image)) for image in range(len(cache.images))])


def perceptual_hash(image_HW: UInt8) -> Bool:
    """(LOW * LOW - 1,) bits of an 8-bit grey image."""
    small_SS = resize_image(image_HW, (SIDE, SIDE)).astype(np.float64)
    low_X = np.asarray(fft.dctn(small_SS, norm="ortho"))[:LOW, :LOW].ravel()[1:]
    return np.asarray(low_X > np.median(low_X))
