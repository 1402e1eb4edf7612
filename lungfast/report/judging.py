"""A judgement of one claim on one set: does it hold, and by which figures."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """``holds`` is None where it was not tested; ``figures`` say why, one sentence each."""

    holds: bool | None
    figures: tuple[str, ...] = ()


def untested(*why: str) -> Judgement:
    return Judgement(holds=None, figures=why)
