"""Tables beyond the paper's: paired comparisons, strata, jitter, losses by epoch, the grid, masks, times.

Comes in: :class:`Material`. Goes out: those tables for which there are results, by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lungfast.report import comparing, facts, paper
from lungfast.report.facts import LOSSES, Row, contents, label, title
from lungfast.report.mask_tables import (
    cleaned_table,
    jitter_table,
    quality_table,
    strata_table,
    surface_table,
)
from lungfast.report.material import Material
from lungfast.report.noted import FINE, interval, noted_table
from lungfast.report.table import (
    NOTHING,
    ORACLE,
    Cell,
    Table,
    count,
    difference,
    number,
    probability,
    words,
)
from lungfast.report.trust_tables import calibration_table, recipes_table, robustness_table


def further_tables(material: Material) -> dict[str, Table]:
    """Tables with rows, in the order in which they are read."""
    makers: dict[str, Callable[[Material], Table]] = {
        "comparisons": comparisons_table,
        "curves": curves_table,
        "grid": grid_table,
        "strata": strata_table,
        "jitter": jitter_table,
        "surface": surface_table,
        "cleaned": cleaned_table,
        "recipes": recipes_table,
        "calibration": calibration_table,
        "robustness": robustness_table,
        "quality": quality_table,
        "times": times_table,
    }
    tables = {name: make(material) for name, make in makers.items()}
    return {name: table.without_empty_columns() for name, table in tables.items() if table.rows}


def comparisons_table(material: Material) -> Table:
    rows = []
    for name, one in comparing.everywhere(material):
        t = one.get("t") or {}
        rows.append(
            [
                words(title(name)),
                words(facts.named(one["family"])),
                words(facts.named(one["name"])),
                Cell(
                    text=difference(one["difference"], FINE).text,
                    value=one["difference"],
                    bold=comparing.significance(one) is not None
                    and float(comparing.significance(one) or 0) < comparing.ALPHA,
                ),
                Cell(text=interval(one["ci95"])),
                count(one["n"]),
                probability(one["p_wilcoxon"]),
                probability(one["p_holm"]),
                probability(t.get("p")),
                count(t.get("n_values")),
            ]
        )
    columns = ("Set", "Family", "Difference in F1", "Mean", "95 %", "n", "p", "p (Holm)", "p (t)", "n (t)")
    return noted_table(
        "Paired comparisons, image by image",
        columns,
        rows,
        "Mean difference over images with a bootstrap interval over patients; p: Wilcoxon's signed-rank "
        "test, Holm-adjusted within its family; p (t): corrected resampled t-test (Nadeau and Bengio) over "
        "folds and seeds. Bold: Holm's p below 0.05.",
        heads=3,
    )


def curves_table(material: Material) -> Table:
    """Fig. 1 in numbers: per decoder group, when the validation loss was lowest and when it had settled."""
    rows = [
        [
            words(title(name)),
            words(study),
            words(text),
            count(len(group)),
            count(max(len(one["train_loss"]) for one in group)),
            *(_range([one[key] for one in group if one.get(key)]) for key in ("settled", "last_improvement")),
        ]
        for name in material.sets
        for study, content in contents(material, name)
        for text, group in histories(content.get("history") or ()).items()
    ]
    columns = ("Set", "Study", "Prompt", "Decoders", "Epochs", "Settled", "Lowest validation loss")
    return noted_table(
        "Learning curves: when the validation loss had settled, and when it was lowest",
        columns,
        rows,
        "Settled: the first epoch whose validation loss is within 1 % of the lowest; median over decoders "
        "[lowest, highest]. Lowest at the last epoch: it was still falling. "
        f"The paper: nothing improves after epoch {paper.LAST_USEFUL_EPOCH}.",
        heads=3,
    )


def histories(history: Any) -> dict[str, list[Row]]:
    """Decoders by prompt, and by loss where there is more than one."""
    losses = {one.get("loss") for one in history}
    groups: dict[str, list[Row]] = {}
    for one in history:
        text = str(one.get("prompt") or "U-Net")
        text += f" {ORACLE}" if text in {"box", "both"} else ""
        text += f" ({LOSSES.get(one['loss'], one['loss'])})" if len(losses) > 1 else ""
        groups.setdefault(text, []).append(one)
    return groups


def median(values: list[int]) -> int:
    """The lower one of two in the middle: an epoch that occurred."""
    return sorted(values)[(len(values) - 1) // 2]


def _range(values: list[int]) -> Cell:
    if not values:
        return Cell(text=NOTHING)
    middle = median(values)
    return Cell(
        text=f"{middle} [{min(values)}, {max(values)}]" if len(values) > 1 else str(middle), value=middle
    )


def grid_table(material: Material) -> Table:
    rows = []
    for name in material.sets:
        content = material.study(name, "grid") or {}
        best = content.get("best") or {}
        for row in content.get("rows", ()):
            won = row["decoder"] == best.get("decoder")
            rows.append(
                [
                    words(title(name)),
                    words(f"{row['lr']:g}"),
                    words(f"{row['wd']:g}"),
                    words(row["loss"]),
                    words(label({**row, "key": None})),
                    count(row["best_epoch"]),
                    number(row["threshold"], 2),
                    Cell(text=number(row["val_f1"], FINE).text, value=row["val_f1"], bold=won),
                    number(row["val_iou"], FINE),
                    number(best["test"]["f1"] if won and best.get("test") else None, FINE),
                ]
            )
    columns = ("Set", "lr", "wd", "Loss", "Prompt", "Epoch", "Threshold", "Validation F1", "IoU", "Test F1")
    return noted_table(
        "Grid of learning rate and weight decay (Sections III-D and IV-D)",
        columns,
        rows,
        "Chosen by mean F1 on validation images, each decoder at its own best threshold; test images are "
        "scored for the winner (bold) alone. The paper's winner: lr 1e-05, wd 0.",
        heads=5,
    )


def times_table(material: Material) -> Table:
    rows = [
        [
            words(title(one["set"]) if one.get("set") else "both"),
            words(one["study"]),
            *(_time(one.get(key)) for key in ("seconds", "cpu_seconds")),
            count(None if one.get("peak_memory_mb") is None else round(one["peak_memory_mb"])),
        ]
        for one in material.timings
    ]
    total = sum(one["seconds"] for one in material.timings)
    if rows:
        rows.append([words("all"), words("together"), _time(total), count(None), count(None)])
    columns = ("Set", "Study", "Time", "Processor time", "Peak memory, MB")
    return noted_table("Time and memory", columns, rows, TIMED)


def _time(seconds: float | None) -> Cell:
    return Cell(text=NOTHING) if seconds is None else Cell(text=duration(seconds), value=seconds)


TIMED = (
    "Peak memory is the process's highest so far: a study that needs less shows that of an earlier one. "
    "The time of a study that was stopped and gone on with is that of its last start. Processor time is that "
    "of all cores together: pauses and other programs do not count."
)


def duration(seconds: float) -> str:
    """``41 s``, ``7 min 05 s``, ``2 h 03 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left:02d} min" if hours else f"{minutes} min {rest:02d} s"
