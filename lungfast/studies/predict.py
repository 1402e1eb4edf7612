"""A trained model on images without a truth: masks, overlays, contours, areas, and which ones to look at.

Comes in: a finished run, files or folders, boxes where the prompt takes them from a user. Out: a folder

    masks/NAME.png      0 and 255 at native size          overlays/NAME.png   to look at, up to 1,024 px
    contours/NAME.json  outlines in native pixels, and the image's row; written last of the three
    predictions.csv     one line per file                 results.json        the same; written last

Images are decoded ahead of the encoder in threads and written behind it, a few at a time, whatever their
number. A file that cannot be read is reported at the end. A killed pass goes on with ``resume``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lungfast.data.boxes import Boxes, read_boxes
from lungfast.data.images import read_image
from lungfast.data.inputs import NamedImage, find_images
from lungfast.errors import DataError, RunError, UsageError
from lungfast.files import file_sha256, write_atomic, write_json
from lungfast.frozen.prompts import PromptConfig
from lungfast.records import Float32, Float64, PromptKind, UInt8
from lungfast.runs import ANSWER, RunFolder, open_run, provenance, read_json, results
from lungfast.studies.ahead import PassListener, in_batches, work_ahead
from lungfast.studies.ensemble import NO_BOXES, Ensemble, run_encoder
from lungfast.studies.judged import SKIPPED, Judge, Measures
from lungfast.studies.mask_files import mask_png, overlay_png, polygons
from lungfast.studies.models import FinishedRun, Model

_ASKED = ("prompt", "threshold", "height", "width")
FOLDERS = ("masks", "overlays", "contours")
FAMILIES: tuple[tuple[PromptKind, PromptKind], ...] = (("box", "box-auto"), ("both", "both-auto"))
"""Prompts of the same tokens: a decoder trained on one takes the other."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to predict with what, and where to.

    ``decoder``: a decoder of the run, or a row of its table for all its folds; None for the preferred row.
    ``test_views``: over how many views of an image answers are averaged; None: as the run chose thresholds.
    """

    run: Path
    images: tuple[Path, ...]
    output: Path
    decoder: str | None = None
    prompt: PromptKind | None = None
    boxes: Path | None = None
    checkpoint: Path | None = None
    test_views: int | None = None
    batch_size: int = 1
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """One decoded image with its boxes (none where the prompt needs none)."""

    image_HW: UInt8
    boxes_S4: Float64 = field(default_factory=lambda: NO_BOXES)


def predict(request: Request, *, device: torch.device, listener: PassListener) -> dict[str, Any]:
    """The content of results.json. Whatever can be refused is refused before the folder is made."""
    run = FinishedRun.open(request.run)
    if request.output.resolve() == request.run.resolve():
        raise UsageError("-o is the run itself", found=str(request.output), fix="choose another -o")
    models = _with_views(trained := models_of(run, request.decoder), request.test_views)
    prompt = _prompt(run, models[0].prompt, request)
    files = find_images(request.images)
    boxes = read_boxes(request.boxes, [one.path for one in files]) if request.boxes else None
    encoder = run_encoder(run, request.checkpoint, device=device)
    ensemble = Ensemble(models, encoder, prompt=prompt, like=run.fingerprint)
    judge = Judge.of(run, models, prompt.kind, ensemble.threshold, ensemble.views)
    notes = notes_of(trained[0], ensemble, judge)
    for line in notes:
        listener.note(line)
    question = _question(request, ensemble, files, boxes)
    question["settings"]["quality_cut"] = judge.cut
    with open_run(
        request.output, question, resume=request.resume, overwrite=request.overwrite, folders=FOLDERS
    ) as folder:
        if folder.complete:
            return dict(folder.read(ANSWER))
        rows, skipped = _Pass(ensemble, judge, folder, listener).over(files, boxes, request.batch_size)
        unread = [_unread(one, skipped[one.name]) for one in files if one.name in skipped]
        folder.write_rows("predictions.csv", rows + unread)
        made_with = provenance(
            str(device),
            run={"path": str(run.path), "study": run.content["study"]},
            config=question["settings"],
            encoder=run.encoder,
        )
        content = results("predict", rows, made_with) | {
            "skipped": list(skipped.values()),
            "notes": notes,
        }
        folder.write_results(content)
    return content


def models_of(run: FinishedRun, decoder: str | None) -> tuple[Model, ...]:
    """One decoder by its key, or all those of a row of the run's table."""
    rows = run.rows()
    if decoder is None or decoder in rows:
        return run.models(decoder)
    for key, members in rows.items():
        if decoder in {member["decoder"] for member in members}:
            return tuple(model for model in run.models(key) if model.key == decoder)
    raise UsageError(
        f"--decoder is not in {run.path}",
        found=decoder,
        expected=f"{', '.join(rows) or 'none at all'}, or one of their decoders/",
    )


def _with_views(models: tuple[Model, ...], test_views: int | None) -> tuple[Model, ...]:
    """The models, asked about so many views; UsageError for more than their thresholds were chosen with."""
    if test_views is None:
        return models
    if not 1 <= test_views <= models[0].views:
        raise UsageError(
            "--test-views is out of range",
            found=str(test_views),
            expected=f"1 to {models[0].views}, which the run averages",
        )
    return tuple(replace(model, views=test_views) for model in models)


def _prompt(run: FinishedRun, trained: PromptConfig, request: Request) -> PromptConfig:
    """The trained prompt, or the other one of its family; boxes exactly where the prompt takes them."""
    kind = request.prompt or trained.kind
    family = next((pair for pair in FAMILIES if trained.kind in pair), (trained.kind,))
    if kind not in family:
        raise UsageError(
            f"{run.path} was not trained for --prompt {kind}",
            found=f"decoders trained for {trained.kind}",
            expected=" or ".join(family),
        )
    prompt = replace(trained, kind=kind)
    if prompt.is_oracle and request.boxes is None:
        raise UsageError(
            f"{run.path} was trained on boxes from the ground truth, which these images lack",
            found=f"--prompt {kind} without --boxes",
            fix=f"give --boxes FILE.csv, or --prompt {kind}-auto for the average lungs' box",
        )
    if request.boxes is not None and not prompt.is_oracle:
        fix = f"give --prompt {family[0]} too" if len(family) > 1 else "leave it out"
        raise UsageError("--boxes has no use here", found=f"--prompt {kind}", fix=fix)
    return prompt


def notes_of(trained: Model, ensemble: Ensemble, judge: Judge) -> list[str]:
    """What a reader of the masks should know, a line each."""
    notes, prompt = [], ensemble.prompt
    if prompt.kind != trained.prompt.kind:
        source = "boxes of the file" if prompt.is_oracle else "the average training mask's box"
        notes.append(f"trained with prompt {trained.prompt.kind}, used with {prompt.kind}: {source}")
    if ensemble.views != trained.views:
        notes.append(
            f"answers are averaged over {ensemble.views} of the {trained.views} views of an image over which "
            "thresholds were chosen"
        )
    return notes + judge.notes


def _question(
    request: Request, ensemble: Ensemble, files: Sequence[NamedImage], boxes: Boxes | None
) -> dict[str, Any]:
    """What decides the masks: a resume must ask the same."""
    listing = "\n".join(f"{one.name}\t{one.path}" for one in files)
    return {
        "study": "predict",
        "settings": {
            "run": str(request.run),
            "run_sha256": file_sha256(request.run / ANSWER),
            "decoders": [model.key for model in ensemble.models],
            "prompt": ensemble.prompt.as_dict(),
            "threshold": ensemble.threshold,
            "images": len(files),
            "images_sha256": hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest(),
            "boxes_sha256": file_sha256(boxes.path) if boxes else None,
        }
        | ({"views": ensemble.views} if ensemble.views > 1 else {}),
        "device": ensemble.encoder.device.type,
    }


class _Pass:
    """One pass over the images: decode ahead, predict here, write behind."""

    def __init__(self, ensemble: Ensemble, judge: Judge, folder: RunFolder, listener: PassListener) -> None:
        self._ensemble, self._judge, self._path, self._listener = ensemble, judge, folder.path, listener
        self._skipped: dict[str, str] = {}

    def over(
        self, files: Sequence[NamedImage], boxes: Boxes | None, batch_size: int
    ) -> tuple[list[dict[str, Any]], dict[str, str]]:
        """Rows, and by name why an image was skipped; both in the order of the files."""
        self._listener.phase("predicting", len(files))
        rows = {one.name: row for one in files if (row := self._done(one)) is not None}
        self._listener.advance(len(rows))
        todo = [(one, partial(_load, one, boxes)) for one in files if one.name not in rows]
        for one, written in work_ahead(self._predicted(todo, batch_size)):
            if isinstance(written, DataError):
                self._skipped[one.name] = str(written)
            else:
                rows[one.name] = written
            self._listener.advance()
        in_order = [rows[one.name] for one in files if one.name in rows]
        return in_order, {one.name: self._skipped[one.name] for one in files if one.name in self._skipped}

    def _predicted(self, todo: Any, batch_size: int) -> Iterator[tuple[NamedImage, Any]]:
        """(image, how to write it); unreadable ones are left out, and told at the end."""
        for batch in in_batches(work_ahead(todo), batch_size):
            usable = []
            for one, item in batch:
                if isinstance(item, DataError):
                    self._skipped[one.name] = str(item)
                    self._listener.advance()
                else:
                    usable.append((one, item))
            if usable:
                logits_KBhw = self._ensemble.logits(
                    [item.image_HW for _, item in usable],
                    [item.boxes_S4 for _, item in usable],
                    ids=[one.name for one, _ in usable],
                )
                for b, (one, item) in enumerate(usable):
                    yield one, partial(self._write, one, item.image_HW, logits_KBhw[:, b])

    def _write(self, one: NamedImage, image_HW: UInt8, logits_Khw: Float32) -> dict[str, Any]:
        frame, threshold = self._ensemble.frame(image_HW), self._ensemble.threshold
        mean_hw = np.asarray(logits_Khw.mean(axis=0), np.float32)
        mask_HW, measures = self._judge.look(image_HW, frame, logits_Khw, mean_hw)
        asked = (self._ensemble.prompt.kind, threshold, *frame.native_size)
        row = {"image": one.name, "file": str(one.path)} | dict(zip(_ASKED, asked, strict=True))
        row |= asdict(measures)
        masks, overlays, contours = (self._path / name for name in FOLDERS)
        write_atomic(masks / f"{one.name}.png", mask_png(mask_HW))
        write_atomic(overlays / f"{one.name}.png", overlay_png(image_HW, frame, mean_hw, threshold))
        outlines = polygons(frame, mean_hw, threshold)
        write_json(contours / f"{one.name}.json", {"prediction": row, "polygons": outlines})
        return row

    def _done(self, one: NamedImage) -> dict[str, Any] | None:
        """The row of an image that an earlier start finished."""
        try:
            return dict(read_json(self._path / "contours" / f"{one.name}.json")["prediction"])
        except (RunError, KeyError):
            return None


def _unread(one: NamedImage, why: str) -> dict[str, Any]:
    """The line of a file without a mask in predictions.csv."""
    names = ("image", "file", *_ASKED, *(measure.name for measure in fields(Measures)))
    known = {"image": one.name, "file": str(one.path), "flag": SKIPPED, "note": why}
    return dict.fromkeys(names) | known


def _load(one: NamedImage, boxes: Boxes | None) -> Loaded:
    image_HW = read_image(one.path)
    if boxes is None:
        return Loaded(image_HW=image_HW)
    return Loaded(image_HW=image_HW, boxes_S4=boxes.of(one.path, (image_HW.shape[0], image_HW.shape[1])))
