"""What a report is made of: the results of studies as they stand in results.json, and a few example masks.

Comes in from the studies (which read the run folders), goes out to every table, claim, chart and page.
Nothing in this room opens a run or computes a result: any study may be missing, and then its part says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lungfast.records import Bool, UInt8

Content = Mapping[str, Any]
"""The content of a study's results.json."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One test image with its truth and its prediction, in the frame of the cropped preview.

    ``prob_HW`` is the probability times 255; ``f1`` is the score at native size at ``threshold``, which the
    image's fold chose on validation. ``generated`` is False for the X-ray of a patient.
    """

    id: str
    kind: Literal["best", "median", "worst"]
    f1: float
    threshold: float
    fold: str
    prompt: str
    preview_HW: UInt8
    truth_HW: Bool
    prob_HW: UInt8
    generated: bool = False


@dataclass(frozen=True, kw_only=True)
class Material:
    """``sets`` maps a set's name to its studies by name; ``transfer`` belongs to two sets."""

    title: str
    sets: Mapping[str, Mapping[str, Content]]
    transfer: Content | None = None
    timings: Sequence[Mapping[str, Any]] = ()
    """[{study, set, seconds, cpu_seconds, peak_memory_mb}]; a transfer's set is null."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """{name, epochs: {SET: n}, chosen_by_us: [sentences]}; empty for a single run."""
    left_out: Sequence[str] = ()
    """Studies that could not be run, and why, a sentence each."""
    examples: Mapping[str, Sequence[Example]] = field(default_factory=dict)
    generated: frozenset[str] = frozenset()
    """Sets of generated X-rays: the paper's figures stand beside them, but no difference is taken."""

    def study(self, set_name: str, study: str) -> Content | None:
        """One study's content, None where it was not run."""
        return self.sets[set_name].get(study)

    def is_generated(self, set_name: str) -> bool:
        examples = self.examples.get(set_name, ())
        return set_name in self.generated or any(example.generated for example in examples)

    @property
    def all_generated(self) -> bool:
        """False where there is no set."""
        return bool(self.sets) and all(map(self.is_generated, self.sets))

    @property
    def shows_patients(self) -> bool:
        """True where a report of this holds images of patients."""
        return any(not example.generated for examples in self.examples.values() for example in examples)
