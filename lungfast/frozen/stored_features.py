"""Features as a cache holds them: in float16 or float32, or in 8 bits with a scale per channel of each row.

Comes in: the encoder's tokens. Goes out: what is written, and from it again what a decoder reads. 8 bits
(``embed --dtype int8``) take half of float16's disk. A channel's largest value becomes 127 steps, so no value
strays by more than half a step, 0.4 % of that largest one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lungfast.records import Float16, Float32

INT8, FLOAT16 = "int8", "float16"
DTYPES = (FLOAT16, "float32", INT8)
STEPS = 127
BLOCK = 64
"""Tokens whose products lie in the cache until they are rounded."""

Features = Float16 | Float32


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """``values_VNC`` in the cache's dtype; ``scales_VC`` (float32) where they are 8 bits, else None."""

    values_VNC: npt.NDArray[Any]
    scales_VC: Float32 | None = None

    @property
    def is_finite(self) -> bool:
        """Whether everything read from it will be."""
        if self.scales_VC is None:
            return bool(np.isfinite(self.values_VNC).all())
        return bool((self.scales_VC <= np.finfo(FLOAT16).max / STEPS).all())


def handed_out(dtype: str) -> np.dtype[Any]:
    """What decoders read from a cache of this dtype."""
    return np.dtype(FLOAT16 if dtype == INT8 else dtype).newbyteorder("<")


def store(features_VNC: Features, dtype: str) -> StoredFeatures:
    """Features (V, N, C) as they are written; what is not finite in ``dtype`` leaves them not finite."""
    if dtype != INT8:
        with np.errstate(over="ignore"):  # the writer names an overflow
            return StoredFeatures(np.asarray(features_VNC).astype(handed_out(dtype)))
    values_VNC = np.asarray(features_VNC, np.float32)
    scales_VC = np.abs(values_VNC).max(1) / np.float32(STEPS)
    usable_VC = np.where(np.isfinite(scales_VC) & (scales_VC > 0), scales_VC, np.float32(1))
    steps_VNC = np.rint(values_VNC / usable_VC[:, None])
    held_VNC = np.clip(np.nan_to_num(steps_VNC), -STEPS, STEPS)
    return StoredFeatures(held_VNC.astype(np.int8), scales_VC)


def read_into(stored: StoredFeatures, out_VNC: Features) -> None:
    """Steps times scales, rounded to ``out_VNC``'s dtype once."""
    if stored.scales_VC is None:
        out_VNC[:] = stored.values_VNC
        return
    products = np.empty((BLOCK, out_VNC.shape[-1]), np.float32)
    for values_NC, scales_C, out_NC in zip(stored.values_VNC, stored.scales_VC, out_VNC, strict=True):
        for start in range(0, len(values_NC), BLOCK):
            part = values_NC[start : start + BLOCK]
            out_NC[start : start + BLOCK] = np.multiply(part, scales_C, out=products[: len(part)])


def as_read(features_VNC: Float32, dtype: str) -> Features:
    """What a cache of this dtype would hand out for them: fresh images meet decoders as cached ones do."""
    out_VNC = np.empty(features_VNC.shape, handed_out(dtype))
    read_into(store(features_VNC, dtype), out_VNC)
    return out_VNC
