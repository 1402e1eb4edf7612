"""The plain twins of lungfast.scored.paired: definitions, spelled out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np


def wilcoxon_p(differences: Sequence[float]) -> float:
    """Exact two-sided p: the share of all 2^n assignments of signs at least as uneven. No ties, no zeros."""
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    middle = ranks.sum() / 2
    seen = abs(ranks[np.asarray(differences) > 0].sum() - middle)
    sums = [ranks[np.array(signs)].sum() for signs in product([False, True], repeat=len(ranks))]
    return float(np.mean(np.abs(np.array(sums) - middle) >= seen))


def holm_rejects(p_values: Sequence[float], alpha: float) -> list[bool]:
    """Step down from the smallest p: reject while p <= alpha / (hypotheses left), then stop."""
    rejected = [False] * len(p_values)
    for rank, position in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[position] > alpha / (len(p_values) - rank):
            break
        rejected[position] = True
    return rejected
