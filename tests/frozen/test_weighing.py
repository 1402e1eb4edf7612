"""Attention weights with positions in one pass, against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lungfast.frozen.weighing import weigh


def exact(logits_QN: np.ndarray, rows_Qh: np.ndarray, columns_Qw: np.ndarray) -> np.ndarray:
    grids = 0.125 * logits_QN.astype(np.float64).reshape(len(rows_Qh), rows_Qh.shape[1], -1)
    sums_QN = (grids + rows_Qh[..., None] + columns_Qw[:, None]).reshape(len(rows_Qh), -1)
    return np.asarray(np.exp(sums_QN - sums_QN.max(1, keepdims=True)))


@pytest.mark.parametrize("spread", [1.0, 40.0, 4000.0])
@pytest.mark.parametrize("extent", [(8, 8), (3, 5), (1, 7)])
def test_weights_and_their_sums(extent: tuple[int, int], spread: float) -> None:
    rng = np.random.default_rng(0)
    height, width = extent
    rows, columns = (rng.normal(size=(6, n)).astype(np.float32) for n in extent)
    logits = (spread * rng.normal(size=(6, height * width))).astype(np.float32)
    half = torch.from_numpy(logits).bfloat16()
    wanted, wanted_half = exact(logits, rows, columns), exact(half.float().numpy(), rows, columns)
    sums = weigh(logits, 0.125, rows, columns)
    # a logit of 500 has a rounding of 3e-5 in float32, and so has the weight
    np.testing.assert_allclose(logits, wanted, atol=max(5e-6, 2e-7 * spread))
    np.testing.assert_allclose(sums, wanted.sum(1), rtol=max(5e-6, 2e-7 * spread))
    bits = half.view(torch.uint16).numpy()
    weigh(bits, 0.125, rows, columns)
    np.testing.assert_allclose(half.float().numpy(), wanted_half, atol=2**-8)
