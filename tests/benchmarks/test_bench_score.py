"""The benchmark of scoring runs, its routes agree, and its record becomes a table."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks import bench_score, common, tables

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_quick_run_makes_a_record_and_its_table() -> None:
    path = bench_score.run(quick=True)
    assert BENCHMARKS not in path.parents  # a quick run never replaces a measured record
    record = json.loads(path.read_text())
    routes = [row["route"] for row in record["tables"][0]]
    assert sum("(best plain route)" in route for route in routes) == 1
    section = tables.section(record)
    for row in record["tables"][0]:
        assert f"| {row['route']} | {row['ms an image']:.4g} |" in section
    assert record["versions"]["numba"] in section


def test_candidates_take_turns_and_warm_up_is_not_counted() -> None:
    order: list[str] = []
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    seconds = common.time_interleaved(calls, repeats=4, warmup=1)
    assert {name: len(values) for name, values in seconds.items()} == {"a": 4, "b": 4, "c": 4}
    rounds = ["".join(order[n : n + 3]) for n in range(0, 15, 3)]
    assert rounds == ["cab", "abc", "bca", "cab", "abc"]


def test_a_ratio_is_taken_round_by_round() -> None:
    # a machine three times slower in the second round moves both candidates, not their ratio
    assert common.ratio([2.0, 6.0, 2.0], [1.0, 3.0, 1.0]) == 2.0
