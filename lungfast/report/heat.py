"""Heat maps as what they are, tables: a grid's validation F1, a transfer's test F1. Results in, cells out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lungfast.report.facts import finished, leading, title, travelling
from lungfast.report.material import Material
from lungfast.report.table import bracket, plain

_APART = ("loss", "prompt", "seed")


@dataclass(frozen=True, kw_only=True)
class Warm:
    """``share`` is 0 for the lowest of its table and 1 for the highest, which ``best`` marks in words too."""

    text: str
    share: float = 0.0
    best: bool = False
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class HeatMap:
    caption: str
    corner: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Warm, ...]], ...]


def grids(material: Material) -> list[HeatMap]:
    """A map per set, loss, prompt and seed: learning rates down, weight decays across."""
    found = []
    for name in material.sets:
        content = material.study(name, "grid") or {}
        rows = list(content.get("rows", ()))
        best = content.get("best") or {}
        varying = [key for key in _APART if len({row[key] for row in rows}) > 1]
        for apart in dict.fromkeys(tuple(row[key] for key in _APART) for row in rows):
            these = [row for row in rows if tuple(row[key] for key in _APART) == apart]
            lrs, wds = (sorted({row[key] for row in these}) for key in ("lr", "wd"))
            values = {(row["lr"], row["wd"]): row["val_f1"] for row in these}
            texts = [[values.get((lr, wd)) for wd in wds] for lr in lrs]
            won = {(row["lr"], row["wd"]) for row in these if row["decoder"] == best.get("decoder")}
            names = [
                f"seed {value}" if key == "seed" else str(value)
                for key, value in zip(_APART, apart, strict=True)
                if key == "loss" or key in varying
            ]
            cells = _warm(texts, digits=4, best=[[(lr, wd) in won for wd in wds] for lr in lrs])
            found.append(
                HeatMap(
                    caption=f"{title(name)}, {', '.join(names)}: validation F1",
                    corner="lr, weight decay",
                    columns=tuple(f"wd {wd:g}" for wd in wds),
                    rows=tuple((f"lr {lr:g}", row) for lr, row in zip(lrs, cells, strict=True)),
                )
            )
    return found


def transfer_matrix(material: Material) -> HeatMap | None:
    """Trained down, tested across, on the test images of the same fold; from points where they were run."""
    rows = leading([row for row in finished(material.transfer) if row["scope"] == "same fold"])
    if not rows:
        return None
    names = list(dict.fromkeys(row["train"] for row in rows))
    by_pair = {(row["train"], row["test"]): row for row in rows}
    values = [
        [by_pair[train, test]["f1_image"]["mean"] if (train, test) in by_pair else None for test in names]
        for train in names
    ]
    details = [
        [
            bracket(by_pair[train, test]["f1_image"]["ci95"]) if (train, test) in by_pair else ""
            for test in names
        ]
        for train in names
    ]
    return HeatMap(
        caption=f"F1 per image from {travelling(rows[0])}, test images of the same fold",
        corner="trained, tested",
        columns=tuple(f"tested on {title(name)}" for name in names),
        rows=tuple(
            (f"trained on {title(name)}", row)
            for name, row in zip(names, _warm(values, digits=3, details=details), strict=True)
        ),
    )


def _warm(
    values: Sequence[Sequence[float | None]],
    *,
    digits: int,
    best: Sequence[Sequence[bool]] | None = None,
    details: Sequence[Sequence[str]] | None = None,
) -> list[tuple[Warm, ...]]:
    known = [value for row in values for value in row if value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    return [
        tuple(
            Warm(
                text="diverged" if value is None else plain(value, digits),
                share=0.0 if value is None or high == low else (value - low) / (high - low),
                best=bool(best and best[i][j]),
                detail=details[i][j].strip() if details else "",
            )
            for j, value in enumerate(row)
        )
        for i, row in enumerate(values)
    ]
