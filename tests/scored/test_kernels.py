"""Counts equal the plain twin's to the pixel; torch's differ only where rounding decides."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungfast.errors import LungfastError, TrainingError
from lungfast.geometry import Frame, pack_mask, unpack_mask
from lungfast.records import Bool, Counts, Float32, Size, UInt8
from lungfast.scored import kernels, looks
from lungfast.scored.kernels import (
    ScoreJob,
    count_image,
    count_images,
    predict_mask,
    threshold_edges,
)
from lungfast.scored.shares import LEAST_ROWS, take
from tests.naive import scored as naive

FIVE = (0.5, 0.55, 0.6, 0.65, 0.7)
UNCOMPILED = os.environ.get("NUMBA_DISABLE_JIT") == "1"
FIELDS = ("true_positive_Q", "false_positive_Q", "false_negative_Q", "true_negative_Q")
many = settings(max_examples=12 if UNCOMPILED else 300, deadline=None)


def smooth_logits(side: int, seed: int, height: float = 8.0) -> Float32:
    """Two lungs of logits up to about ``height``, wavy."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    lungs = [1 - ((x - cx) / 0.17) ** 2 - ((y - 0.45) / 0.33) ** 2 for cx in (0.28, 0.63)]
    waves = 0.3 * np.sin(x * rng.uniform(20, 40)) * np.cos(y * rng.uniform(20, 40))
    return (height * np.tanh(np.maximum(*lungs) + waves)).astype(np.float32)


def an_image(native: Size) -> tuple[Float32, Frame, UInt8, Float32]:
    """What count_image takes: two lungs, a truth of noise."""
    truth_HW = np.random.default_rng(0).random(native) < 0.5
    return smooth_logits(16, 0), Frame.of(native, 64, "longest"), pack_mask(truth_HW), threshold_edges(FIVE)


def assert_same(ours: Counts, twin: Counts) -> None:
    for name in FIELDS:
        assert getattr(ours, name).tolist() == getattr(twin, name).tolist(), name


def check(logits_hw: Float32, frame: Frame, truth_HW: Bool, thresholds: tuple[float, ...]) -> None:
    edges_Q = threshold_edges(thresholds)
    native_HW = naive.native_logits(logits_hw, frame)
    assert_same(
        count_image(logits_hw, frame, pack_mask(truth_HW), edges_Q),
        naive.counts(native_HW, truth_HW, naive.edges(thresholds)),
    )
    middle = len(thresholds) // 2
    mask_HW = predict_mask(logits_hw, frame, thresholds[middle])
    assert np.array_equal(mask_HW, native_HW > naive.edges(thresholds)[middle])


sides = st.integers(1, 20) if UNCOMPILED else st.integers(1, 90)


@many
@given(
    native=st.tuples(sides, sides),
    low=st.sampled_from([(4, 4), (5, 7), (16, 16)]),
    input_size=st.sampled_from([8, 16, 33]),
    resize=st.sampled_from(["longest", "squash"]),
    n_thresholds=st.sampled_from([1, 2, 5, 40, 300]),
    seed=st.integers(0, 2**32 - 1),
)
def test_counts_equal_the_twin(native, low, input_size, resize, n_thresholds, seed) -> None:
    rng = np.random.default_rng(seed)
    scale = 10.0 ** rng.integers(-2, 3)
    logits_hw = (scale * rng.normal(size=low)).astype(np.float32)
    thresholds = tuple(sorted({float(t) for t in rng.uniform(1e-4, 1 - 1e-4, n_thresholds)}))
    truth_HW = rng.random(native) < rng.choice([0.0, 0.4, 1.0])
    check(logits_hw, Frame.of(native, input_size, resize), truth_HW, thresholds)


@many
@given(
    value=st.sampled_from([0.0, -0.0, 1.5, -3.25]),
    n=sides,
    width=sides,
    below=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_a_logit_on_an_edge_is_not_above_it(value, n, width, below, seed) -> None:
    """Flat logits exactly on an edge, among edges of any spacing: strictly above, at every pixel."""
    others = np.random.default_rng(seed).normal(value, 10 ** (-6 * below), 9).astype(np.float32)
    edges_Q = np.unique(np.append(others, np.float32(value)))
    frame, truth_HW = Frame.of((n, width), 16, "longest"), np.ones((n, width), bool)
    counts = count_image(np.full((4, 4), value, np.float32), frame, pack_mask(truth_HW), edges_Q)
    assert counts.true_positive_Q.tolist() == [n * width if value > edge else 0 for edge in edges_Q]


@many
@given(seed=st.integers(0, 2**32 - 1), n_edges=st.integers(1, 12), run=st.sampled_from([1, 4, looks.CHUNK]))
def test_neighbours_on_edges_fall_in_their_own_bins(seed, n_edges, run) -> None:
    """Nothing is interpolated (64 -> 64 -> 64), so that pixels meet edges exactly, beside other pixels."""
    rng, size = np.random.default_rng(seed), (64, 64)
    edges_Q = np.unique(rng.normal(size=n_edges).astype(np.float32))
    between = edges_Q + rng.choice([-0.1, 0.1], edges_Q.size).astype(np.float32)
    levels = rng.choice(np.concatenate([edges_Q, between]), (64, 64 // run))
    logits_hw, truth_HW = np.repeat(levels, run, axis=1), rng.random(size) < 0.5
    ours = count_image(logits_hw, Frame.of(size, 64, "squash"), pack_mask(truth_HW), edges_Q)
    assert_same(ours, naive.counts(logits_hw, truth_HW, edges_Q))


def test_many_native_rows_between_two_input_rows() -> None:
    """More than 255 rows of a group: the byte that sums a column's truth bits must not run over."""
    height = 60 if UNCOMPILED else 1300
    rng = np.random.default_rng(0)
    for truth_HW in (np.ones((height, 9), bool), rng.random((height, 9)) < 0.5):
        check(rng.normal(size=(2, 2)).astype(np.float32), Frame.of((height, 9), 4, "squash"), truth_HW, FIVE)


@many
@given(
    native=st.tuples(sides, sides),
    low=st.integers(6, 24),
    input_size=st.sampled_from([24, 48, 61]),
    levels=st.lists(st.sampled_from([-6.0, 0.0, 0.1, 0.2, 0.3, 6.0]), min_size=1, max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
def test_plateaus_with_steps_between_them(native, low, input_size, levels, seed) -> None:
    """Whole rectangles decided by their samples, on edges too, beside steps that must be looked at."""
    rng = np.random.default_rng(seed)
    patches = rng.choice(levels, (-(-low // 5), -(-low // 3)))
    logits_hw = np.kron(patches, np.ones((5, 3)))[:low, :low].astype(np.float32)
    truth_HW = np.kron(rng.random((4, 4)) < 0.5, np.ones((24, 24), bool))[: native[0], : native[1]]
    frame, edges_Q = Frame.of(native, input_size, "longest"), np.array([0.0, 0.1, 0.25, 6.0], np.float32)
    ours = count_image(logits_hw, frame, pack_mask(truth_HW), edges_Q)
    assert_same(ours, naive.counts(naive.native_logits(logits_hw, frame), truth_HW, edges_Q))


@pytest.mark.parametrize("rough", [0.0, 0.3, 1.0])
def test_looks_at_narrow_and_at_wide_pieces_join(rough: float) -> None:
    """A row whose left part is decided, with a narrow step in it, and whose right part is noise."""
    width, rng = 773, np.random.default_rng(0)
    logits_hw = np.full((4, 64), 4.0, np.float32)
    logits_hw[:, 8:12] = -4
    logits_hw[:, int(64 * (1 - rough)) :] = rng.normal(size=(4, 64 - int(64 * (1 - rough))))
    check(logits_hw, Frame.of((9, width), 256, "squash"), rng.random((9, width)) < 0.5, FIVE)


@pytest.mark.parametrize("width", [5, looks.CHUNK + 5])
def test_bits_beyond_the_width_count_nothing(width: int) -> None:
    packed = pack_mask(np.zeros((3, width), bool))
    packed[:, -1] |= np.uint8(0b111)
    logits_hw = np.ones((4, 4), np.float32)
    counts = count_image(logits_hw, Frame.of((3, width), 64, "longest"), packed, threshold_edges(FIVE))
    assert counts.true_positive_Q.tolist() == [0] * 5
    assert counts.false_positive_Q.tolist() == [3 * width] * 5


@pytest.mark.skipif(UNCOMPILED, reason="too slow as plain Python")
@pytest.mark.parametrize("native", [(4020, 4892), (4892, 4020), (2991, 3000)])
def test_real_sizes_equal_the_twin(native) -> None:
    frame, logits_hw = Frame.of(native, 1024, "longest"), smooth_logits(256, sum(native))
    truth_HW = np.zeros(native, bool)
    truth_HW[300:2500, 777:2100] = True
    native_HW = naive.native_logits(logits_hw, frame)
    mask_HW = predict_mask(logits_hw, frame, 0.6)
    assert np.array_equal(mask_HW, native_HW > naive.edges([0.6])[0])
    ours = count_image(logits_hw, frame, pack_mask(truth_HW), threshold_edges(FIVE))
    assert_same(ours, naive.counts(native_HW, truth_HW, naive.edges(FIVE)))
    # 1,001 thresholds: the twin's five compares become one sorted search
    thresholds = (np.arange(1001) + 1) / 1002
    edges_Q = threshold_edges(thresholds)
    above_HW = np.searchsorted(edges_Q, native_HW.ravel()[truth_HW.ravel()], side="left")
    true_Q = np.bincount(above_HW, minlength=1002)[::-1].cumsum()[::-1][1:]
    counts = count_image(logits_hw, frame, pack_mask(truth_HW), edges_Q)
    assert np.array_equal(counts.true_positive_Q, true_Q)


@pytest.mark.skipif(UNCOMPILED, reason="compares with torch, whatever runs the kernel")
@pytest.mark.parametrize(
    ("native", "resize"),
    [((4020, 4892), "longest"), ((701, 512), "longest"), ((300, 411), "squash"), ((1, 1), "longest")],
)
def test_torch_differs_only_where_rounding_decides(native, resize) -> None:
    """segment-anything's own postprocess_masks: differing pixels lie within 1e-4 of the edge in float64."""
    import torch
    from segment_anything.modeling.sam import Sam

    class Square:
        image_encoder = type("Encoder", (), {"img_size": 1024})

    frame, logits_hw = Frame.of(native, 1024, resize), smooth_logits(256, 3)
    single, double = (
        Sam.postprocess_masks(Square, torch.from_numpy(values)[None, None], frame.resized_size, native)[0, 0]
        for values in (logits_hw, logits_hw.astype(np.float64))
    )
    for threshold in (0.3, 0.5, 0.7):
        edge = naive.edges([threshold])[0]
        differs = predict_mask(logits_hw, frame, threshold) != (single.numpy() > edge)
        assert differs.sum() <= 3 + 1e-6 * differs.size
        assert np.abs(double.numpy()[differs] - edge).max(initial=0) < 1e-4


@pytest.mark.parametrize("threads", [2, 3, 50])
def test_threads_share_the_rows_of_an_image(threads: int) -> None:
    given = an_image((31 * LEAST_ROWS // 10, 40))
    assert_same(count_image(*given, threads=threads), count_image(*given))


def test_who_has_looked_in_vain_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "LOOKS", 0)
    given = an_image((7 * LEAST_ROWS, 40))
    assert_same(count_image(*given, threads=3), count_image(*given))


def test_a_thread_that_fails_with_a_share_fails_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = kernels.count_pixels

    def count(*given: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            took_one.wait()
            return counted(*given)
        take(given[3])
        took_one.set()
        raise MemoryError("no desk")

    took_one = threading.Event()
    monkeypatch.setattr(kernels, "count_pixels", count)
    monkeypatch.setattr(kernels, "LOOKS", 10)
    with pytest.raises(MemoryError, match="no desk"):
        count_image(*an_image((7 * LEAST_ROWS, 40)), threads=2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_starts_threads_of_its_own() -> None:
    code = (
        "import os, sys, time; from tests.scored.test_kernels import *;"
        "given = an_image((7 * LEAST_ROWS, 40)); expected = count_image(*given, threads=2);"
        "time.sleep(0.2);"  # the pool's thread is idle again: what a child without threads would count on
        "child = os.fork();"
        "answered = child or kernels._pool(2).submit(int).result(timeout=20);"
        "child or assert_same(count_image(*given, threads=2), expected);"
        "child or os._exit(answered);"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=Path(__file__).parents[2], check=False
    )
    assert done.returncode == 0


def test_images_come_back_in_order_from_threads() -> None:
    rng = np.random.default_rng(0)
    jobs = [
        ScoreJob(
            logits_hw=rng.normal(size=(4, 4)).astype(np.float32),
            frame=Frame.of((5 + n, 9), 16, "longest"),
            truth_packed=pack_mask(rng.random((5 + n, 9)) < 0.5),
        )
        for n in range(8)
    ]
    edges_Q = threshold_edges(FIVE)
    for job, counts in zip(jobs, count_images(jobs, edges_Q, threads=3), strict=True):
        assert_same(counts, count_image(job.logits_hw, job.frame, job.truth_packed, edges_Q))


@given(height=st.integers(1, 5), width=st.integers(1, 40), seed=st.integers(0, 99))
def test_packing_returns(height, width, seed) -> None:
    mask_HW = np.random.default_rng(seed).random((height, width)) < 0.5
    assert pack_mask(mask_HW).shape == (height, -(-width // 8))
    assert np.array_equal(unpack_mask(pack_mask(mask_HW), width), mask_HW)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 1e38])
def test_logits_that_cannot_be_scored_are_refused(wrong: float) -> None:
    frame, logits_hw = Frame.of((5, 9), 16, "longest"), np.zeros((4, 4), np.float32)
    logits_hw[3, 3] = wrong  # on the padding: still a diverged decoder
    with pytest.raises(TrainingError, match="NaN"):
        count_image(logits_hw, frame, pack_mask(np.zeros((5, 9), bool)), threshold_edges(FIVE))
    with pytest.raises(TrainingError, match="NaN"):
        predict_mask(logits_hw, frame, 0.5)


def test_a_mask_of_another_size_is_refused() -> None:
    frame, logits_hw = Frame.of((5, 9), 16, "longest"), np.zeros((4, 4), np.float32)
    with pytest.raises(LungfastError, match="does not fit"):
        count_image(logits_hw, frame, pack_mask(np.zeros((9, 5), bool)), threshold_edges(FIVE))


@pytest.mark.parametrize("wrong", [[], [0.0, 0.5], [0.5, 1.0], [0.5, 0.5], [0.6, 0.5], [np.nan], [[0.5]]])
def test_thresholds_that_cannot_be_used_are_refused(wrong: list[float]) -> None:
    with pytest.raises(LungfastError, match="thresholds"):
        threshold_edges(wrong)


def test_half_is_logit_zero() -> None:
    assert threshold_edges([0.5])[0] == 0.0
    assert threshold_edges(FIVE).dtype == np.float32


@pytest.mark.process
@pytest.mark.skipif(UNCOMPILED, reason="this is that run")
def test_the_kernels_are_right_without_the_compiler() -> None:
    tests = [
        __file__,
        *(str(Path(__file__).with_name(f"test_{name}.py")) for name in ("bits", "lanes", "shares")),
    ]
    overflow = "ignore:overflow encountered in scalar multiply:RuntimeWarning"  # of the bit counts: meant
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-n0",
        "-p",
        "no:cacheprovider",
        "-W",
        overflow,
        *tests,
    ]
    done = subprocess.run(
        command,
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "passed" in done.stdout
