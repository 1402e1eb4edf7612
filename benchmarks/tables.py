"""Write benchmarks/README.md and its plots from the records: ``python -m benchmarks.tables``.

Comes in: records/*.json. Goes out: README.md and plots/*.svg, so that no figure in them is typed again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.common import RECORDS, Target
from benchmarks.plots import svg_of

INTRODUCTION = """# Benchmarks

Written by `python -m benchmarks.tables` from the JSON records of the scripts beside it; do not edit. One
script answers one question: `python -m benchmarks.bench_NAME` measures and writes `records/NAME.json`, and
`--quick` shows in seconds that the script works. Candidates that are timed against each other ran in turn,
warm-up rounds (compilation, page faults) are not counted, and their times are medians; whole jobs and the
recipe's arms ran once. What was copied by hand says so. `recipe-N.json` are earlier tables of
`bench_recipe.py`, kept as the recipe changed.
"""


def main() -> None:
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RECORDS.glob("*.json"))]
    text = "\n".join([INTRODUCTION, *map(section, records)])
    (RECORDS.parent / "README.md").write_text(text, encoding="utf-8")
    plots = RECORDS.parent / "plots"
    plots.mkdir(exist_ok=True)
    drawn = {f"{plot['name']}.svg": svg_of(plot) for record in records for plot in record.get("plots", ())}
    for old in {path.name for path in plots.iterdir()} - set(drawn):
        (plots / old).unlink()
    for name, content in drawn.items():
        (plots / name).write_text(content, encoding="utf-8")


def section(record: Mapping[str, Any]) -> str:
    """One record as Markdown: title, question, tables, plots, where it was measured."""
    rows_of = [*record["tables"], *([targets] if (targets := target_rows(record)) else [])]
    pictures = [f"![{plot['title']}](plots/{plot['name']}.svg)" for plot in record.get("plots", ())]
    shown = "\n\n".join([*map(markdown_table, rows_of), *pictures])
    hardware = record["hardware"]
    bf16 = "with" if hardware["bf16"] else "without"
    tiles = ", AMX" if hardware.get("amx") else ""
    place = (
        f"{hardware['cpu']}, {hardware['cores']} cores ({bf16} native bf16{tiles}), "
        f"{hardware['memory_gib']} GiB, device {hardware['device']}, {hardware['system']}"
    )
    script = record.get("script", f"bench_{record['name']}.py")
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    took = f", {record['seconds']:.0f} s" if "seconds" in record else ""
    code = f", commit {record['commit']}" if record.get("commit") else ""
    return (
        f"## {record['title']}\n\n{record['question']}\n\n{shown}\n\n"
        f"`{script}`, {record['date']}{took}{code}: {place}; {versions}.\n"
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
