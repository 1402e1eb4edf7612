"""results.json in, rich tables out, 80 columns wide. ± stands only where it is a std over folds.

What is the same in every line stands once, in the caption.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from lungfast.report.mask_tables import DISTANCES
from lungfast.report.paper import figure
from lungfast.scored.scores import PAPER_THRESHOLDS

BEST, ORACLE = "★", "†"
ORACLE_NOTE = f"{ORACLE} its box is taken from the ground truth, which is not there in use"
Row = Mapping[str, Any]
SETTINGS: dict[str, Callable[[Row], str]] = {
    "lr": lambda row: f"{row['lr']:g}",
    "wd": lambda row: f"{row['wd']:g}",
    "loss": lambda row: str(row["loss"]),
    "prompt": lambda row: _marked(row, "prompt"),
    "seed": lambda row: str(row["seed"]),
}


def grid_table(content: Row) -> Table:
    """One line per configuration, the winner marked; its test scores in the caption."""
    rows, best = content["rows"], content["best"]
    varying, constant = _settings(rows)
    names = ["", *varying, "epoch", "thr", "val F1", "val IoU", "status"]
    table = _table("grid, chosen on validation rows", names)
    for row in rows:
        marked = row["decoder"] == best["decoder"]
        table.add_row(
            BEST if marked else "",
            *(SETTINGS[name](row) for name in varying),
            str(row["best_epoch"]),
            _cell(row["threshold"], 2),
            _cell(row["val_f1"]),
            _cell(row["val_iou"]),
            row["status"],
            style="bold" if marked else "",
        )
    test, oracle = best["test"], best["needs_ground_truth"]
    table.caption = "\n".join(
        [
            constant.removeprefix(", "),
            f"{BEST} on its {test['n']} test images: F1 {test['f1']:.4f}, IoU {test['iou']:.4f}, "
            f"precision {test['precision']:.4f}, recall {test['recall']:.4f}",
            *([ORACLE_NOTE] if oracle else []),
        ]
    )
    return table


def cv_table(content: Row, title: str = "cross-validation, mean ± std over folds") -> Table:
    """One line per prompt, mean ± std over folds, the best of several marked; intervals in the caption."""
    rows = content["rows"]
    names = ["", "prompt", "F1", "IoU", "precision", "recall"]
    table = _table(title, names)
    done = [row for row in rows if row["f1"]]
    best = max(done, key=lambda row: row["f1"]["mean"]) if len(done) > 1 else None
    for row in rows:
        table.add_row(
            BEST if row is best else "",
            _marked(row, "key"),
            *(_spread(row[name]) for name in ("f1", "iou")),
            *(_cell(row[name] and row[name]["mean"]) for name in ("precision", "recall")),
            style="bold" if row is best else "",
        )
    lines = [*(_per_image(row) for row in rows), *(line for row in rows for line in _on_request(row))]
    if any(row["needs_ground_truth"] for row in rows):
        lines.append(ORACLE_NOTE)
    table.caption = "\n".join(lines)
    return table


def fold_table(row: Row) -> Table:
    """What one prompt's folds chose and scored."""
    folds = row["per_fold"]
    if row.get("ensemble"):  # the first member speaks for all
        folds = list({fold["fold"]: fold for fold in reversed(folds)}.values())[::-1]
    varying, constant = _settings(folds)
    names = ["fold", *varying, "epoch", "thr", "val F1", "test F1", "test IoU", "n"]
    table = _table(f"{row['key']}, fold by fold", names)
    for fold in folds:
        table.add_row(
            fold["fold"],
            *(SETTINGS[name](fold) for name in varying),
            str(fold["best_epoch"]),
            _cell(fold["threshold"], 2),
            _cell(fold["val_f1"]),
            _cell(fold["test"]["f1"]),
            _cell(fold["test"]["iou"]),
            str(fold["n_test"]),
        )
    table.caption = constant.removeprefix(", ")
    return table


def robustness_table(content: Row) -> Table:
    """One line per perturbation, a column of F1 and of its change for every run."""
    runs = list(dict.fromkeys(row["run"] for row in content["rows"]))
    names = list(dict.fromkeys(row["perturbation"] for row in content["rows"]))
    found = {(row["run"], row["perturbation"]): row for row in content["rows"]}
    table = _table(
        "F1 on perturbed films", ["film", *(f"{run}{of}" for run in runs for of in ("", ", change"))]
    )
    for name in names:
        rows = [found[run, name] for run in runs]
        cells = [(_cell(row["f1_image"]["mean"]), f"{row['change']['mean']:+.4f}") for row in rows]
        table.add_row(name, *(text for pair in cells for text in pair))
    table.caption = f"{content['rows'][0]['f1_image']['n']} test images, each by decoders that do not know it"
    return table


def curve_table(content: Row) -> Table:
    """One line per learning curve: where it was lowest, and where it had settled within 1 %."""
    rows = content["rows"]
    varying, constant = _settings(rows)
    names = ["prompt", *varying, "seed", "lowest at", "settled at", "val F1", "test F1", "status"]
    table = _table("learning curves, by validation loss", names)
    for row in rows:
        table.add_row(
            _marked(row, "prompt"),
            *(SETTINGS[name](row) for name in varying),
            str(row["seed"]),
            *("-" if row[name] is None else f"epoch {row[name]}" for name in ("last_improvement", "settled")),
            _cell(row["val_f1"]),
            _cell(row["test"] and row["test"]["f1"]),
            row["status"],
        )
    table.caption = constant.removeprefix(", ")
    return table


def threshold_table(content: Row) -> Table:
    """The paper's five thresholds and the best of all, on validation images; then its test score."""
    names = ["prompt", *(f"{t:.2f}" for t in PAPER_THRESHOLDS), "best", "at", "test F1"]
    table = _table("validation F1 by threshold", names)
    for row in content["rows"]:
        at = [_nearest(row["thresholds"], t) for t in PAPER_THRESHOLDS]
        table.add_row(
            _marked(row, "key"),
            *(_cell(row["val_f1"][q] if q is not None else None) for q in at),
            _cell(row["chosen"]["val_f1"]),
            _cell(row["chosen"]["threshold"], 2),
            _cell(row["test"]["f1"]),
        )
    if any(row["needs_ground_truth"] for row in content["rows"]):
        table.caption = ORACLE_NOTE
    return table


def _nearest(scan: Sequence[float], threshold: float) -> int | None:
    found = [q for q, value in enumerate(scan) if abs(value - threshold) < 1e-9]
    return found[0] if found else None


def transfer_table(content: Row) -> Table:
    """One line per direction, prompt and scope; the paired differences in the caption."""
    table = _table(
        "transfer, mean ± std over the folds of the set that trained",
        ["trained, tested", "on", "prompt", "F1", "n"],
    )
    for row in content["rows"]:
        table.add_row(
            f"{row['train']}, {row['test']}",
            row["scope"],
            _marked(row, "of"),
            _spread(row["f1"]),
            str(row["f1_image"]["n"]),
        )
    lines = [
        f"{one['name']}: {one['difference']:+.4f}, p {one['p_holm']:.2g}" for one in content["comparisons"]
    ]
    dropped, alike = len(content["duplicates"]), content["near_duplicates"]
    lines.append(f"{dropped} images with the same pixels in both sets were dropped")
    lines.append("look-alikes: no previews to compare" if alike is None else f"look-alikes: {len(alike)}")
    if any(row["needs_ground_truth"] for row in content["rows"]):
        lines.append(ORACLE_NOTE)
    table.caption = "\n".join(lines)
    return table


def jitter_table(content: Row) -> Table:
    """F1 of every prompt by the perturbation of its box."""
    table = _table("F1 with perturbed boxes, mean ± std over folds", ["prompt", "± px", "F1", "IoU"])
    for row in content["rows"]:
        table.add_row(
            _marked(row, "key"),
            str(row["jitter_px"]),
            *(_spread(row[name]) for name in ("f1", "iou")),
        )
    table.caption = ORACLE_NOTE
    return table


def reproduction_table(content: Row) -> Table:
    """One line per set and prompt, the paper's figure beside ours where it has one."""
    table = _table("five folds, mean ± std", ["set", "prompt", "F1", "IoU", "the paper's F1"])
    for row in content["rows"]:
        theirs = None if row["generated"] else figure("V", row["set"], prompt=row["key"])
        table.add_row(
            row["set"],
            _marked(row, "key"),
            *(_spread(row[name]) for name in ("f1", "iou")),
            f"{theirs.mean:.3f} ± {theirs.std:.3f}" if theirs else "-",
        )
    notes = [ORACLE_NOTE] if any(row["needs_ground_truth"] for row in content["rows"]) else []
    if any(row["decoder_origin"] != "sam" for row in content["rows"]):
        notes.append("not Meta's SAM weights: these are not SAM's figures")
    if any(row["generated"] for row in content["rows"]):
        notes.append("generated X-rays: these figures say nothing about patients")
    table.caption = "\n".join(notes)
    return table


class _CaptionedTable(Table):
    """Its caption is below it, as wide as the terminal instead of the table."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        caption, self.caption = self.caption, None
        try:
            yield from super().__rich_console__(console, options)
        finally:
            self.caption = caption
        if caption:
            yield Text.assemble((str(caption), "table.caption"))


def _table(title: str, columns: Sequence[str]) -> Table:
    table = _CaptionedTable(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        text = name in {"", "prompt", "fold", "loss", "status"}
        # where a terminal is too narrow a cell goes over two lines: nothing of a figure is cut off
        table.add_column(name, justify="left" if text else "right", overflow="fold")
    return table


def _marked(row: Row, name: str) -> str:
    """A row's name, marked where its prompt needs the ground truth; "-" where it has no prompt."""
    return "-" if row[name] is None else f"{row[name]}" + (f" {ORACLE}" if row["needs_ground_truth"] else "")


def _settings(rows: Sequence[Row]) -> tuple[list[str], str]:
    """Names of the settings that differ between rows, and the others as text."""
    values = {name: {show(row) for row in rows} for name, show in SETTINGS.items()}
    varying = [name for name, found in values.items() if len(found) > 1]
    constant = "".join(
        f", {name} {min(found)}" for name, found in values.items() if len(found) == 1 and found != {"-"}
    )
    return varying, constant


def _cell(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _spread(summary: Row | None) -> str:
    if summary is None:
        return "-"
    return f"{summary['mean']:.4f}" + ("" if summary["std"] is None else f" ± {summary['std']:.4f}")


def _on_request(row: Row) -> list[str]:
    """Contours and cleaned masks, where they were asked for."""
    lines = []
    found = {name: one for name, one in (row.get("surface") or {}).items() if one}
    if found:
        told = (f"{DISTANCES[name].replace(',', '')} {one['mean']:.2f}" for name, one in found.items())
        lines.append(f"{row['key']}: {', '.join(told)}")
    cleaned = row.get("cleaned")
    if cleaned:
        change = cleaned["difference"]["difference"]
        lines.append(f"{row['key']}, {cleaned['name']}: F1 {_spread(cleaned['f1'])}, {change:+.4f} an image")
    return lines


def _per_image(row: Row) -> str:
    f1 = row["f1_image"]
    if f1 is None:
        return f"{row['key']}: no result, a fold has no decoder that did not diverge"
    interval = "" if f1["ci95"] is None else f" [95 % {f1['ci95'][0]:.4f} to {f1['ci95'][1]:.4f}]"
    found = row.get("calibration")
    error = f", calibration error {found['ece']:.4f}" if found else ""
    return f"{row['key']}: F1 per image {f1['mean']:.4f}{interval}, n = {f1['n']}{error}"
