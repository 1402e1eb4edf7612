"""Write benchmarks/README.md from the records: ``python -m benchmarks.tables``.

Comes in: records/*.json. Goes out: README.md, so that no figure in it is typed by hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import RECORDS, Target

INTRODUCTION = """# Benchmarks

Written by `python -m benchmarks.tables` from the JSON records of the scripts beside it; do not edit. One
script answers one question: `python -m benchmarks.bench_NAME` measures and writes `records/NAME.json`, and
`--quick` shows in seconds that the script works. The candidates of a table ran in turn in one process,
warm-up rounds (compilation, page faults) are not counted, and every figure is a median.
"""


def main() -> None:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RECORDS.glob("*.json"))]
    text = "\n".join([INTRODUCTION, *map(section, records)])
    (RECORDS.parent / "README.md").write_text(text, encoding="utf-8")


def section(record: Mapping[str, Any]) -> str:
    """One record as Markdown: title, question, tables, where it was measured."""
    rows_of = [*record["tables"], *([targets] if (targets := target_rows(record)) else [])]
    tables = "\n\n".join(markdown_table(rows) for rows in rows_of)
    hardware = record["hardware"]
    bf16 = "with" if hardware["bf16"] else "without"
    place = (
        f"{hardware['cpu']}, {hardware['cores']} cores ({bf16} native bf16), {hardware['memory_gib']} GiB, "
        f"device {hardware['device']}, {hardware['system']}"
    )
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return (
        f"## {record['title']}\n\n{record['question']}\n\n{tables}\n\n"
        f"`bench_{record['name']}.py`, {record['date']}: {place}; {versions}.\n"
    )


def target_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was asked of the benchmark, and what came out."""
    targets = [Target(**content) for content in record.get("targets", ())]
    return [
        {"target": one.name, "measured": one.value, "asked": one.asked, "met": one.met} for one in targets
    ]


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Columns in the order in which the rows first name them; a value that a row lacks is left empty."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[cell(row.get(column)) for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")


if __name__ == "__main__":
    main()
