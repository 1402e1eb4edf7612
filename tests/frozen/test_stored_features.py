"""Features in 8 bits: near what they were, the same from every reader, and refused where they do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lungfast.errors import CacheError
from lungfast.frozen.cache import EmbeddingCache
from lungfast.frozen.cache_hdf5 import export_hdf5, import_hdf5
from lungfast.frozen.rows import ResidentRows
from lungfast.frozen.stored_features import DTYPES, INT8, STEPS, StoredFeatures, as_read, handed_out, store
from tests.frozen.cachekit import features, make, opened, sample, tree

VALUES = hnp.arrays(np.float32, (2, 5, 3), elements=st.floats(-100, 100, width=32))


@given(VALUES)
def test_no_value_strays_by_more_than_half_a_step(values_VNC: np.ndarray) -> None:
    found_VNC = as_read(values_VNC, INT8).astype(np.float64)
    step_VC = np.abs(values_VNC).max(1) / STEPS
    rounding = 2.0**-11 * np.abs(values_VNC) + 2.0**-24
    assert (np.abs(found_VNC - values_VNC) <= 0.5001 * step_VC[:, None] + rounding).all()


@given(VALUES)
def test_steps_times_scales_are_what_is_read(values_VNC: np.ndarray) -> None:
    stored = store(values_VNC, INT8)
    assert stored.values_VNC.dtype == np.int8
    assert stored.scales_VC is not None
    assert stored.is_finite
    naive_VNC = (stored.values_VNC.astype(np.float32) * stored.scales_VC[:, None]).astype(np.float16)
    np.testing.assert_array_equal(as_read(values_VNC, INT8), naive_VNC)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fresh_features_are_those_of_a_cache(dtype: str, tmp_path: Path) -> None:
    cache = EmbeddingCache.open(make(f"{tmp_path}/m.zarr", dtype=dtype))
    rows = [3, 0]
    found_BNC = cache.features(rows)
    assert found_BNC.dtype == handed_out(dtype) == cache.feature_dtype
    np.testing.assert_array_equal(found_BNC, as_read(np.stack([features(row) for row in rows]), dtype))
    (batch,) = ResidentRows(cache).stream([np.array([rows])])
    np.testing.assert_array_equal(batch.features_GBNC[0], found_BNC)


def test_8_bits_take_half_and_lie_open_to_zarr(tmp_path: Path) -> None:
    half = EmbeddingCache.open(make(f"{tmp_path}/a.zarr"))
    eight = EmbeddingCache.open(make(f"{tmp_path}/b.zarr", dtype=INT8))
    sizes = [cache.info()["bytes_by_kind"] for cache in (half, eight)]
    assert half.row_bytes == eight.row_bytes == 9 * 8 * 2
    with_metadata = len((tmp_path / "a.zarr/features/zarr.json").read_bytes()) + 16
    assert sizes[1]["features"] - sizes[0]["features"] <= with_metadata - 3 * 9 * 8
    group = zarr.open_group(f"{tmp_path}/b.zarr", mode="r")
    values = group["features"][3].reshape(9, 8) * group["scales"][3]
    np.testing.assert_array_equal(values.astype(np.float16), eight.features([3])[0])


def test_8_bits_travel_through_hdf5(tmp_path: Path) -> None:
    export_hdf5(EmbeddingCache.open(make(f"{tmp_path}/a.zarr", dtype=INT8)), tmp_path / "a.h5")
    import_hdf5(tmp_path / "a.h5", f"{tmp_path}/b.zarr")
    assert tree(f"{tmp_path}/b.zarr") == tree(f"{tmp_path}/a.zarr")


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e5])
def test_what_8_bits_cannot_hold_is_refused(bad: float, tmp_path: Path) -> None:
    spoilt = features(0)
    spoilt[4, 2] = bad
    with opened(f"{tmp_path}/m.zarr", dtype=INT8) as writer:
        with pytest.raises(CacheError, match="not finite in int8"):
            writer.add(0, sample(0), spoilt)
        assert not writer.done


def test_a_missing_scale_is_damage(tmp_path: Path) -> None:
    cache = EmbeddingCache.open(make(f"{tmp_path}/m.zarr", dtype=INT8))
    (tmp_path / "m.zarr/scales/c.1.0").unlink()
    with pytest.raises(CacheError, match=r"damaged at scales/c\.1\.0"):
        cache.features([1])


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda s: StoredFeatures(s.values_VNC, None), r"int8 \(1, 9, 8\)"),
        (lambda s: StoredFeatures(s.values_VNC, s.scales_VC[:, :3]), r"with scales \(1, 3\)"),
        (lambda s: StoredFeatures(s.values_VNC.astype(np.float16)), "float16"),
        (lambda s: StoredFeatures(s.values_VNC, s.scales_VC * np.nan), "not finite"),
    ],
)
def test_stored_features_of_another_kind_are_refused(spoil, found: str, tmp_path: Path) -> None:
    good = store(features(0)[None], INT8)
    with opened(f"{tmp_path}/m.zarr", dtype=INT8) as writer:
        with pytest.raises(CacheError, match=f"not this cache's.*{found}"):
            writer.put_stored(writer.prepare(0, sample(0)), spoil(good))
        writer.put_stored(writer.prepare(0, sample(0)), good)
