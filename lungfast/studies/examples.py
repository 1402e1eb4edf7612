"""Best, median and worst masks of a cross-validation, kept small for a report. Paper: Fig. 2.

Comes in: a finished run and its cache (with previews). Goes out: ``examples.npz`` and ``examples.json`` in
the run folder: previews, truths and probabilities in the preview's frame, cropped to the image. They show
patients where the cache does.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.special import expit

from lungfast.compute import parse_memory, resolve_device
from lungfast.errors import LungfastError, UsageError, taking_apart
from lungfast.files import write_atomic, write_json
from lungfast.geometry import Frame, area_average, resize_image
from lungfast.records import Float32, Int64, Size, UInt8
from lungfast.runs import ANSWER, QUESTION, read_json
from lungfast.studies.models import FinishedRun, Model
from lungfast.studies.scoring import predictions, prepare, score
from lungfast.studies.workspace import Workspace

ARRAYS, NOTES = "examples.npz", "examples.json"
LONG_SIDE = 320
"""Pixels of an example's long side: eight of them take about 0.5 MB in a page."""
SHOWN = {"best": 2, "median": 2, "worst": 4}


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """An image to show, from the run's own test scores."""

    id: str
    kind: str
    fold: str


def choose_examples(content: Any, key: str) -> list[Chosen]:
    """By test F1 of one row: the highest, those around the median, the lowest; no image twice."""
    images = content["images"]
    f1 = np.array(images["f1"][key])
    order = np.argsort(-f1, kind="stable")
    middle = len(order) // 2 - SHOWN["median"] // 2
    places = {
        "best": order[: SHOWN["best"]],
        "median": order[middle : middle + SHOWN["median"]],
        "worst": order[::-1][: SHOWN["worst"]],
    }
    seen: set[int] = set()
    chosen = []
    for kind, positions in places.items():
        for i in positions.tolist():
            if i not in seen:
                seen.add(i)
                chosen.append(Chosen(id=images["id"][i], kind=kind, fold=images["fold"][i]))
    return chosen


def write_examples(finished: FinishedRun, workspace: Workspace, memory_bytes: int) -> None:
    """Predict the chosen images again with their own fold's decoder (the first seed), and keep them."""
    finished.check_cache(workspace.cache)
    key = finished.preferred_key()
    chosen = choose_examples(finished.content, key)
    models = {model.fold: model for model in reversed(finished.models(key))}
    position = {record.id: i for i, record in enumerate(workspace.cache.images)}
    arrays: dict[str, UInt8] = {}
    notes: list[dict[str, Any]] = []
    for one, logits_hw in zip(
        chosen, _logits(chosen, models, position, workspace, memory_bytes), strict=True
    ):
        image, number = position[one.id], len(notes)
        for name, array in _pictures(workspace, image, logits_hw).items():
            arrays[f"{name}-{number}"] = array
        record, threshold = workspace.cache.images[image], models[one.fold].threshold
        notes.append(
            {
                "id": one.id,
                "kind": one.kind,
                "f1": _f1(workspace, image, logits_hw, threshold),
                "fold": one.fold,
                "threshold": threshold,
                "prompt": key,
                "label": record.label,
                "source": record.source,
            }
        )
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    write_atomic(finished.path / ARRAYS, content.getvalue())
    write_json(finished.path / NOTES, notes)


def complete_examples(run: Path, *, cache: str | None, note: Callable[[str], None]) -> None:
    """The examples of a finished cross-validation that has none yet; any other folder is left as it is.

    Where ``cache`` is None, the run's own is looked for where it was, and ``note`` says why there are none.
    UsageError for a ``cache`` beside another study; whatever opening or matching a given one raises.
    """
    if not all((run / name).exists() for name in (QUESTION, ANSWER)):
        return
    with taking_apart(run / QUESTION):
        study = read_json(run / QUESTION)["study"]
    if study != "cv" and cache is not None:
        raise UsageError("a cache is given for the masks of a cross-validation", found=study, expected="cv")
    if study != "cv" or (run / NOTES).exists():
        return
    opened = FinishedRun.open(run)
    try:
        workspace = Workspace(cache or opened.cache_url, device=resolve_device("auto"))
        write_examples(opened, workspace, parse_memory("auto"))
    except (LungfastError, OSError) as error:
        if cache is not None:
            raise
        note(f"the report shows no masks: {error}; give --cache where the run's cache has moved")


def _f1(workspace: Workspace, image: int, logits_hw: Float32, threshold: float) -> float:
    """Of the mask that is shown: with several seeds the table's value is the mean of as many masks."""
    alone = iter([(0, image, logits_hw)])
    (scored,) = score(workspace, alone, [_rows([image])], [threshold], advance=lambda: None)
    return float(scored.at("f1", 0)[0])


def _logits(
    chosen: Sequence[Chosen],
    models: dict[str, Model],
    position: dict[str, int],
    workspace: Workspace,
    memory_bytes: int,
) -> list[Float32]:
    """Low-resolution logits in the order of ``chosen``."""
    folds = list(dict.fromkeys(one.fold for one in chosen))
    images_of = {fold: [position[one.id] for one in chosen if one.fold == fold] for fold in folds}
    candidates = [models[fold].candidate(workspace, _rows(images_of[fold])) for fold in folds]
    width = prepare(workspace, memory_bytes, len(candidates), views=candidates[0].views)
    found = {image: logits_hw for _, image, logits_hw in predictions(workspace, candidates, width=width)}
    return [found[position[one.id]] for one in chosen]


def _rows(images: list[int]) -> Int64:
    return np.array(images, np.int64)


def _pictures(workspace: Workspace, image: int, logits_hw: Float32) -> dict[str, UInt8]:
    """``preview``, ``truth`` (0 or 1) and ``prob`` (probability * 255), all of one small size."""
    cache, frame = workspace.cache, workspace.cache.frame(image)
    scale = LONG_SIDE / max(frame.resized_size)
    size = (max(1, round(frame.resized_size[0] * scale)), max(1, round(frame.resized_size[1] * scale)))
    return {
        "preview": resize_image(cache.picture(image), size),
        "truth": (area_average(cache.mask(image), size) > 0.5).astype(np.uint8),
        "prob": np.round(_probabilities(logits_hw, frame, size) * 255).astype(np.uint8),
    }


def _probabilities(logits_hw: Float32, frame: Frame, size: Size) -> Float32:
    """Logits of the image's part of the frame, bilinear to ``size``, then the sigmoid."""
    low_h, low_w = (
        side * low / frame.input_size for side, low in zip(frame.resized_size, logits_hw.shape, strict=True)
    )
    small = Image.fromarray(logits_hw).resize(
        (size[1], size[0]), Image.Resampling.BILINEAR, box=(0, 0, low_w, low_h)
    )
    return np.asarray(expit(np.asarray(small, np.float32)), np.float32)
