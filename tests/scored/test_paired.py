"""Tests and corrections against enumeration, definitions and scipy's plain forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lungfast.errors import LungfastError
from lungfast.scored.paired import corrected_resampled_t, holm, paired_difference, proportion_interval
from lungfast.scored.scores import per_image_summary
from tests.naive import paired as naive

shares = st.floats(0, 1)


def owners(n: int) -> list[str]:
    return [f"p{position}" for position in range(n)]


# --- paired differences ----------------------------------------------------------------------------


def test_mean_and_interval_are_those_of_the_differences() -> None:
    rng = np.random.default_rng(0)
    a_N, b_N = rng.random(30), rng.random(30)
    patients = [f"p{n // 2}" for n in range(30)]
    found = paired_difference(a_N, b_N, patients, seed=4, draws=600)
    expected = per_image_summary(a_N - b_N, patients, seed=4, draws=600)
    assert (found.difference, found.ci95, found.n) == (expected.mean, expected.ci95, 30)


@settings(max_examples=25, deadline=None)  # up to 13 tied values scipy permutes: 0.2 s
@given(st.lists(st.tuples(shares, shares), min_size=2, max_size=15))
def test_swapped_sides_mirror(pairs: list[tuple[float, float]]) -> None:
    a_N, b_N = np.array(pairs).T
    forth = paired_difference(a_N, b_N, owners(len(pairs)), draws=50)
    back = paired_difference(b_N, a_N, owners(len(pairs)), draws=50)
    assert forth.ci95 is not None
    assert back.ci95 is not None
    assert forth.difference == pytest.approx(-back.difference, abs=1e-12)
    assert forth.ci95 == pytest.approx((-back.ci95[1], -back.ci95[0]), abs=1e-12)
    assert forth.p_wilcoxon == pytest.approx(back.p_wilcoxon)
    assert 0 < forth.p_wilcoxon <= 1


@pytest.mark.parametrize("n", [1, 2, 5, 11])
@pytest.mark.parametrize("seed", range(3))
def test_wilcoxon_equals_the_enumeration_of_all_signs(n: int, seed: int) -> None:
    differences_N = np.random.default_rng(seed).normal(0.3, 1, n)
    found = paired_difference(differences_N, np.zeros(n), owners(n), draws=10)
    assert found.p_wilcoxon == pytest.approx(naive.wilcoxon_p(differences_N), abs=1e-12)


def test_rounding_makes_no_ranks() -> None:
    a_N, b_N = np.arange(1, 31) / 31, np.full(30, 0.5)
    noise_N = np.random.default_rng(0).normal(0, 1e-16, 30)
    plain, noisy = (paired_difference(a, b_N, owners(30), draws=10) for a in (a_N, a_N + noise_N))
    assert plain.p_wilcoxon == noisy.p_wilcoxon
    assert paired_difference(b_N + noise_N, b_N, owners(30), draws=10).p_wilcoxon == 1.0


def test_equal_sides_show_nothing() -> None:
    found = paired_difference(np.ones(4), np.ones(4), owners(4))
    assert (found.difference, found.ci95, found.p_wilcoxon) == (0.0, (0.0, 0.0), 1.0)


def test_one_patient_has_no_interval() -> None:
    assert paired_difference(np.ones(2), np.zeros(2), ["a", "a"]).ci95 is None


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(LungfastError, match="cannot pair"):
        paired_difference(np.ones(3), np.ones(1), owners(3))  # would broadcast
    with pytest.raises(LungfastError, match="one patient per image"):
        paired_difference(np.ones(3), np.ones(3), owners(2))


# --- Holm ------------------------------------------------------------------------------------------


def test_holm_of_a_textbook_family() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(shares, min_size=1, max_size=8), st.floats(0.001, 0.999))
def test_holm_rejects_what_stepping_down_rejects(p_values: list[float], alpha: float) -> None:
    adjusted = [p for p in holm(p_values) if p is not None]
    if all(abs(p - alpha) > 1e-9 for p in adjusted):  # on the very edge rounding decides
        assert [p <= alpha for p in adjusted] == naive.holm_rejects(p_values, alpha)
    assert all(raw <= one <= 1 for raw, one in zip(p_values, adjusted, strict=True))
    assert [adjusted[n] for n in np.argsort(p_values, kind="stable")] == sorted(adjusted)


def test_what_was_not_tested_does_not_count() -> None:
    assert holm([None, 0.02, None, 0.5]) == [None, 0.04, None, 0.5]


# --- corrected resampled t-test --------------------------------------------------------------------


def test_without_overlap_it_is_the_plain_t_test() -> None:
    values = np.random.default_rng(0).normal(0.01, 0.02, 10)
    ours, plain = corrected_resampled_t(values, 100, 0), stats.ttest_1samp(values, 0)
    assert ours is not None
    assert (ours.t, ours.p) == (pytest.approx(plain.statistic), pytest.approx(plain.pvalue))
    assert (ours.df, ours.n_values, ours.difference) == (9, 10, pytest.approx(values.mean()))


def test_overlap_widens_by_its_factor() -> None:
    values = [0.01, 0.03, 0.02, 0.04, 0.025]
    plain, ours = corrected_resampled_t(values, 60, 0), corrected_resampled_t(values, 60, 20)
    assert plain is not None
    assert ours is not None
    assert ours.t == pytest.approx(plain.t / np.sqrt((1 / 5 + 1 / 3) / (1 / 5)))
    assert ours.p > plain.p


def test_seeds_cannot_bring_the_spread_to_nothing() -> None:
    values = np.random.default_rng(1).normal(0.01, 0.02, 4000)
    ours = corrected_resampled_t(values, 60, 20)
    assert ours is not None
    assert abs(ours.t) <= abs(ours.difference) / (values.std(ddof=1) * np.sqrt(1 / 3))


@pytest.mark.parametrize(("value", "t", "p"), [(0.0, 0.0, 1.0), (0.1, None, None)])
def test_values_without_spread(value: float, t: float | None, p: float | None) -> None:
    found = corrected_resampled_t([value] * 3, 60, 20)
    assert found is not None
    assert (found.t, found.p, found.df) == (t, p, 2)


def test_one_fold_has_no_test() -> None:
    assert corrected_resampled_t([0.1], 60, 20) is None
    assert corrected_resampled_t([], 60, 20) is None


# --- shares ----------------------------------------------------------------------------------------


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_solves_its_equation(share: tuple[int, int]) -> None:
    k, n = share
    interval = proportion_interval(k, n)
    assert interval is not None
    z = stats.norm.ppf(0.975)
    centre, spread = (k + z**2 / 2) / (n + z**2), z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    assert interval == pytest.approx((centre - spread, centre + spread), abs=1e-12)
    assert -1e-12 <= interval[0] <= k / n <= interval[1] + 1e-12


def test_a_share_of_nothing_has_no_interval() -> None:
    assert proportion_interval(0, 0) is None
