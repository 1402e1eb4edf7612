"""Finished studies, read from their folders, as the report takes them.

Comes in: what ``reproduce`` wrote, or the folder of a single run. Goes out: a :class:`Material`. What follows
from two studies together (thresholds from a cross-validation's curves, fine-tuned against zero-shot) is put
in here, so that a report never computes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lungfast.errors import RunError
from lungfast.files import file_sha256
from lungfast.records import GENERATED
from lungfast.report.material import Example, Material
from lungfast.runs import ANSWER, QUESTION, SCHEMA, read_json, results
from lungfast.studies.comparisons import Side, as_family, compare
from lungfast.studies.examples import ARRAYS, NOTES
from lungfast.studies.judged import QUALITY
from lungfast.studies.pace import read_pace
from lungfast.studies.thresholds import from_cross_validation

TIMINGS, LEFT_OUT_NOTES = "timings.json", "left_out.json"
STUDIES = ("grid", "baseline", "train", "cv", "thresholds", "jitter", "unet", "best", "robustness")
"""Folders of a set, one run each."""
REPORTED = (*STUDIES, "transfer", "reproduce")
Content = Mapping[str, Any]


def read_material(folder: Path) -> Material:
    """RunError where the folder is no run of lungfast or an unfinished one."""
    study = _study_of(folder)
    if study == "reproduce":
        return read_reproduction(folder, read_json(folder / QUESTION)["config"], must_be_complete=True)
    content = _finished(folder)
    if study not in REPORTED:
        raise RunError(
            f"there is no report of {study}", found=str(folder), expected="a run of " + ", ".join(REPORTED)
        )
    title = f"lungfast {study}"
    if study == "transfer":
        sets: dict[str, dict[str, Content]] = {row["test"]: {} for row in content["rows"]}
        drawn = frozenset(name for name in sets if _is_drawn(content["images"][name]))
        return Material(title=title, sets=sets, transfer=content, generated=drawn)
    name = _set_name(content)
    studies = _completed({study: content}, folder)
    examples = {name: read_examples(folder)}
    return Material(
        title=title, sets={name: studies}, examples=examples, generated=_generated({name: studies})
    )


def read_reproduction(folder: Path, config: Content, *, must_be_complete: bool = False) -> Material:
    """All studies that stand in a folder of ``reproduce``."""
    if must_be_complete:
        _finished(folder)
    sets = {name: _studies(folder / name) for name in config["sets"]}
    transfer_run = folder / "transfer"
    timings = folder / TIMINGS
    return Material(
        title="Lung segmentation with a fine-tuned mask decoder",
        sets=sets,
        transfer=_read(transfer_run) if (transfer_run / ANSWER).exists() else None,
        timings=read_json(timings) if timings.exists() else (),
        recipe=config["recipe"],
        left_out=left_out(folder),
        examples={name: read_examples(folder / name / "cv") for name in sets},
        generated=_generated(sets),
    )


def left_out(folder: Path) -> tuple[str, ...]:
    """What a reproduction did not run, and why."""
    notes = folder / LEFT_OUT_NOTES
    return tuple(read_json(notes)) if notes.exists() else ()


def _study_of(folder: Path) -> str:
    if not (folder / QUESTION).exists():
        raise RunError(f"{folder} is not a run of lungfast", expected="a folder of a study or of reproduce")
    return str(read_json(folder / QUESTION)["study"])


def _finished(folder: Path) -> dict[str, Any]:
    if not (folder / ANSWER).exists():
        raise RunError(f"{folder} is unfinished", fix="go on with the same command and --resume")
    return _read(folder)


def _read(folder: Path) -> dict[str, Any]:
    """RunError for results of another version, whose fields differ."""
    content = dict(read_json(folder / ANSWER))
    if content.get("schema") != SCHEMA:
        raise RunError(
            f"{folder} was written by another version of lungfast",
            found=f"schema {content.get('schema')}",
            expected=str(SCHEMA),
            fix="run the study again (--overwrite)",
        )
    return content | {"pace": read_pace(folder)}


def _studies(folder: Path) -> dict[str, Content]:
    found = {name: _read(folder / name) for name in STUDIES if (folder / name / ANSWER).exists()}
    return _completed(found, folder / "cv")


def _completed(found: Mapping[str, Content], cv_run: Path) -> dict[str, Content]:
    """Studies that follow from others: thresholds, the quality flag, fine-tuned less zero-shot."""
    studies = dict(found)
    cv = studies.get("cv")
    if cv is not None and "thresholds" not in studies:
        studies["thresholds"] = results("thresholds", from_cross_validation(cv), cv["provenance"])
    if (cv_run / QUALITY).exists():
        quality = read_json(cv_run / QUALITY)
        if quality["run_sha256"] == file_sha256(cv_run / ANSWER):  # not of an earlier run in this folder
            studies["quality"] = quality
    if cv is not None and "baseline" in studies:
        studies["baseline"] = {**studies["baseline"], "comparisons": fine_tuning(studies["baseline"], cv)}
    if cv is not None and "best" in studies:
        studies["best"] = {**studies["best"], "comparisons": recipes(studies["best"], cv)}
    return studies


def fine_tuning(baseline: Content, cv: Content) -> list[dict[str, Any]]:
    """Fine-tuned less zero-shot under the same prompt, on the same images in the same folds."""
    before, after = baseline["images"], cv["images"]
    if before["id"] != after["id"] or before["fold"] != after["fold"]:
        return []
    rows = {row["key"]: row for row in cv["rows"] if row["status"] == "done"}
    compared = []
    for row in baseline["rows"]:
        if row["key"] in rows and row["mask"] == "single":
            tuned, folds = rows[row["key"]], rows[row["key"]]["per_fold"]
            sizes = {name: [fold[name] for fold in folds] for name in ("n_train", "n_test")}
            compared.append(
                compare(
                    _side(f"{row['key']}, fine-tuned", after["f1"][row["key"]], tuned),
                    _side(f"{row['key']}, zero-shot", before["f1"][row["key"]], row),
                    after["patient"],
                    n_train=min(sizes["n_train"]),
                    n_test=max(sizes["n_test"]),
                    seed=cv["rows"][0]["seeds"][0],
                )
            )
    return as_family("fine-tuning", compared)


def recipes(best: Content, paper: Content) -> list[dict[str, Any]]:
    """The best recipe less the paper's, under the same prompts, on the same images in the same folds."""
    ours, theirs = best["images"], paper["images"]
    if ours["id"] != theirs["id"] or ours["fold"] != theirs["fold"]:
        return []
    rows = {row["key"]: row for row in paper["rows"] if row["status"] == "done"}
    compared = []
    for row in best["rows"]:
        if row["key"] in rows and row["status"] == "done":
            sizes = {name: [fold[name] for fold in row["per_fold"]] for name in ("n_train", "n_test")}
            compared.append(
                compare(
                    _side(f"{row['key']}, best", ours["f1"][row["key"]], row),
                    _side(f"{row['key']}, paper", theirs["f1"][row["key"]], rows[row["key"]]),
                    ours["patient"],
                    n_train=min(sizes["n_train"]),
                    n_test=max(sizes["n_test"]),
                    seed=row["seeds"][0],
                )
            )
    return as_family("recipes", compared)


def _side(name: str, f1: Sequence[float], row: Content) -> Side:
    return Side(name=name, images_N=np.array(f1, np.float64), folds_J=list(row["f1"]["folds"]))


def _set_name(content: Content) -> str:
    """The sets whose images were used, or the cache's name."""
    sources = _sources(content)
    url = str(content["provenance"]["cache"]["url"])
    return sources.pop() if len(sources) == 1 else Path(url).name.removesuffix(".zarr")


def _generated(sets: Mapping[str, Mapping[str, Content]]) -> frozenset[str]:
    """Sets all of whose images were drawn."""
    drawn = set()
    for name, studies in sets.items():
        sources = set[str]().union(*map(_sources, studies.values()))
        if sources and all(source.startswith(GENERATED) for source in sources):
            drawn.add(name)
    return frozenset(drawn)


def _sources(content: Content) -> set[str]:
    """The sets that a study's images are of; none where its results do not say."""
    images = (content.get("images") or {}).get("source") or ()
    return set(images) | set((content["provenance"].get("cache") or {}).get("sources") or ())


def _is_drawn(block: Content) -> bool:
    return bool(block["source"]) and all(source.startswith(GENERATED) for source in block["source"])


def read_examples(run: Path) -> tuple[Example, ...]:
    """The examples of a run, none where it kept none."""
    if not (run / NOTES).exists() or not (run / ARRAYS).exists():
        return ()
    notes = read_json(run / NOTES)
    with np.load(run / ARRAYS) as arrays:
        return tuple(
            Example(
                **{name: note[name] for name in ("id", "kind", "f1", "threshold", "fold", "prompt")},
                preview_HW=arrays[f"preview-{i}"],
                truth_HW=arrays[f"truth-{i}"].astype(bool),
                prob_HW=arrays[f"prob-{i}"],
                generated=str(note["source"]).startswith(GENERATED),
            )
            for i, note in enumerate(notes)
        )
