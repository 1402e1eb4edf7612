"""Paired comparisons found in the results, turned the way they are asked for, and told in a sentence.

Comes in: contents of studies. Goes out: comparisons as they stand in results.json (a − b); one that was
stored as b − a is turned round. A difference counts as shown where its Holm-adjusted p is below ALPHA.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lungfast.report import facts
from lungfast.report.material import Material
from lungfast.report.noted import FINE
from lungfast.report.table import MINUS, bracket, p_text, signed

Comparison = Mapping[str, Any]
ALPHA = 0.05
BEFORE_AFTER = ("fine-tuning", "zero-shot")
"""Families of fine-tuned less zero-shot."""


def of_set(material: Material, set_name: str) -> list[Comparison]:
    """Every comparison within a set, as its studies list them."""
    studies = facts.contents(material, set_name)
    return [one for _, content in studies for one in content.get("comparisons") or ()]


def everywhere(material: Material) -> Iterator[tuple[str, Comparison]]:
    """Every comparison with its set's name; those of a transfer under its arrow."""
    for name in material.sets:
        yield from ((name, one) for one in of_set(material, name))
    yield from (("transfer", one) for one in (material.transfer or {}).get("comparisons") or ())


def into(material: Material, set_name: str) -> list[Comparison]:
    """A→B − B→B where B is the set, one a prompt."""
    return [one for one in (material.transfer or {}).get("comparisons") or () if one["tested_on"] == set_name]


def between(comparisons: Sequence[Comparison], a: str, b: str) -> Comparison | None:
    """The comparison a − b by the names of its sides, whichever way round it was stored."""
    for one in comparisons:
        if (one["a"], one["b"]) == (a, b):
            return one
        if (one["a"], one["b"]) == (b, a):
            return turned(one)
    return None


def turned(one: Comparison) -> Comparison:
    """b − a as a − b."""
    ci95, t = one["ci95"], one.get("t")
    return {
        **one,
        "a": one["b"],
        "b": one["a"],
        "name": f"{one['b']} {MINUS} {one['a']}",
        "difference": -one["difference"],
        "ci95": None if ci95 is None else [-ci95[1], -ci95[0]],
        "t": None if t is None else {**t, "difference": -t["difference"], "t": _negative(t["t"])},
    }


def _negative(t: float | None) -> float | None:
    """None where all differences are equal: their spread is nothing."""
    return None if t is None else -t


def significance(one: Comparison) -> float | None:
    """Holm's p, or Wilcoxon's where it stands alone."""
    adjusted = one.get("p_holm")
    return one.get("p_wilcoxon") if adjusted is None else adjusted


def is_shown(one: Comparison) -> bool:
    """a is better than b, beyond chance."""
    p = significance(one)
    return bool(one["difference"] > 0 and p is not None and p < ALPHA)


def sentence(one: Comparison) -> str:
    p = significance(one)
    whose = "p" if one.get("p_holm") is None else "Holm's p"
    test = "not tested" if p is None else f"{whose} {p_text(p) if p < 0.001 else '= ' + p_text(p)}"
    apart = signed(one["difference"], FINE) + bracket(one["ci95"], FINE)
    return f"{facts.named(one['name'])}: {apart}, n = {one['n']}, {test}"


def told(compared: Sequence[Comparison]) -> tuple[str, ...]:
    """A sentence each, and what they come to where not all are shown."""
    return (*map(sentence, compared), *_reading(compared))


def _reading(compared: Sequence[Comparison]) -> tuple[str, ...]:
    """What differences that are not all shown say: the opposite, or nothing either way."""
    if all(map(is_shown, compared)):
        return ()
    against = [one for one in compared if one["ci95"] is not None and one["ci95"][1] < 0]
    if against:
        return (f"contradicted by {len(against)} of {len(compared)}: the interval lies below 0",)
    return ("neither shown nor contradicted: no interval lies below 0",)
