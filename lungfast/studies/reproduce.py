"""Every table and figure of the paper, from one or two caches, in one folder that can be resumed.

Comes in: caches by name and a recipe. Goes out: one run folder per study, results.json with the tables and
the claims, and the report. A finished study is never run again; a killed one goes on from its checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from lungfast.compute import peak_memory_mb
from lungfast.data.splits import make_folds
from lungfast.errors import CacheError, CheckpointError, DataError, RunError, TrainingError, UsageError
from lungfast.files import file_sha256
from lungfast.frozen.encoders import decoder_origin
from lungfast.records import GENERATED
from lungfast.report.claims import claims
from lungfast.report.comparing import everywhere
from lungfast.report.material import Material
from lungfast.report.tables import paper_tables
from lungfast.report.writing import write_report
from lungfast.runs import ANSWER, RunFolder, open_run, provenance, read_json, results
from lungfast.studies.estimate import seconds_per_image
from lungfast.studies.fitting import Listener
from lungfast.studies.reading import LEFT_OUT_NOTES, TIMINGS, left_out, read_reproduction
from lungfast.studies.session import cache_facts
from lungfast.studies.steps import TRANSFER, Order, Step, Steps
from lungfast.studies.transfer import check_sets
from lungfast.studies.whole_paper import FOLDS, Recipe, paper_recipe
from lungfast.studies.workspace import Workspace

LEFT_OUT = (CacheError, CheckpointError, DataError, RunError, TrainingError, UsageError)
"""What may keep a study from being run without stopping the others: no previews, too little memory."""
PAPER_SETS = {"montgomery", "shenzhen"}
SUMMARY = (
    "key",
    "prompt",
    "needs_ground_truth",
    "loss",
    "status",
    "f1",
    "iou",
    "f1_image",
    "iou_image",
)
"""Columns of the rows of results.json."""


def reproduce(order: Order, workspaces: Mapping[str, Workspace], listener: Listener) -> dict[str, Any]:
    """Run what is not finished and write the report; returns the content of results.json.

    A study that was left out is tried again whenever a reproduction is resumed.
    """
    if not 1 <= len(workspaces) <= 2:
        raise UsageError("reproduce takes one or two caches", found=str(len(workspaces)))
    _check(order, workspaces)
    config = {"sets": list(workspaces), "recipe": order.recipe.as_dict()}
    question = {
        "study": "reproduce",
        "config": config,
        "settings": {"precision": order.precision, "compile": order.compile_},
        "cache": {name: asdict(one.cache.fingerprint) for name, one in workspaces.items()},
    }
    parts = (*workspaces, TRANSFER)
    with open_run(order.output, question, resume=order.resume, overwrite=order.overwrite, parts=parts) as run:
        if run.complete and not left_out(run.path):
            return dict(run.read(ANSWER))
        _run_steps(Steps(order, workspaces, listener).all(), run, order, workspaces, listener)
        return _conclude(run, order, workspaces)


def _check(order: Order, workspaces: Mapping[str, Workspace]) -> None:
    """What would stop a study after hours is refused at once."""
    if len(workspaces) == 2:
        check_sets(*workspaces.values())
    if order.checkpoint is not None:
        found = file_sha256(order.checkpoint) if order.checkpoint.is_file() else "no such file"
        for name, workspace in workspaces.items():
            if found != (expected := workspace.cache.spec.weights_sha256):
                raise CheckpointError(
                    f"{order.checkpoint} did not make the cache of {name}",
                    found=found[:12],
                    expected=f"sha256 {expected[:12]}…",
                )


def _run_steps(
    steps: list[Step],
    run: RunFolder,
    order: Order,
    workspaces: Mapping[str, Workspace],
    listener: Listener,
) -> None:
    todo = [step for step in steps if not step.done.exists()]
    if not todo:
        return
    name, workspace = next(iter(workspaces.items()))
    settings = order.recipe.settings(
        order.recipe.epochs[name],
        order.memory_bytes // len(workspaces),
        precision=order.precision,
        compile_=order.compile_,
    )
    pace = seconds_per_image(workspace, settings, folds=order.recipe.folds)
    total = sum(step.seconds(pace) for step in todo)
    listener.note(f"{len(todo)} studies to run, about {in_words(total)} on this machine")
    missing: list[str] = []
    run.write(LEFT_OUT_NOTES, missing)  # what an earlier start left out may be done now
    timings = read_json(run.path / TIMINGS) if (run.path / TIMINGS).exists() else []
    for number, step in enumerate(todo, start=1):
        listener.note(f"{number} of {len(todo)}, {step.title}: about {in_words(step.seconds(pace))}")
        started, computed = time.monotonic(), time.process_time()
        try:
            step.act()
        except LEFT_OUT as error:
            if step.is_needed:
                raise
            listener.note(f"{step.title} is left out: {error}")
            missing.append(f"{step.title} is left out: {error}")
            run.write(LEFT_OUT_NOTES, missing)
            continue
        timings.append(
            {
                "study": step.study,
                "set": step.set,
                "seconds": round(time.monotonic() - started, 1),
                "cpu_seconds": round(time.process_time() - computed, 1),
                "peak_memory_mb": peak_memory_mb(),
            }
        )
        run.write(TIMINGS, timings)


def _conclude(run: RunFolder, order: Order, workspaces: Mapping[str, Workspace]) -> dict[str, Any]:
    material = read_reproduction(run.path, run.question["config"])
    write_report(material, run.path)
    rows = [
        _head(name, material, workspaces[name]) | {key: row[key] for key in SUMMARY}
        for name in material.sets
        for row in material.sets[name]["cv"]["rows"]
    ]
    device = next(iter(workspaces.values())).device
    made_with = provenance(
        str(device),
        caches={name: cache_facts(one) for name, one in workspaces.items()},
        config=run.question["config"],
    )
    content = results("reproduce", rows, made_with) | {
        "recipe": dict(material.recipe),
        "tables": {name: table.as_dict() for name, table in paper_tables(material).items()},
        "claims": [asdict(claim) for claim in claims(material)],
        "comparisons": [{"set": name, **one} for name, one in everywhere(material)],
    }
    run.write_results(content)
    return content


def in_words(seconds: float) -> str:
    """``40 s``, ``12 min``, ``1 h 50 min``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def paper_on(
    caches: Mapping[str, str],
    *,
    device: torch.device,
    epochs: Mapping[str, int] | None = None,
    unet_epochs: Mapping[str, int] | None = None,
    quick: bool = False,
    seeds: int = 1,
) -> tuple[dict[str, Workspace], Recipe]:
    """Caches opened by name, and the paper's recipe for sets of their size."""
    workspaces = {name: Workspace(url, device=device) for name, url in caches.items()}
    for name, workspace in workspaces.items():
        _check_name(name, workspace)
    if strangers := {*(epochs or {}), *(unet_epochs or {})} - set(caches):
        raise UsageError("epochs are given for a set that is not there", found=", ".join(sorted(strangers)))
    n_train = {name: training_images(one, folds=FOLDS) for name, one in workspaces.items()}
    on_gpu = device.type == "cuda"
    return workspaces, paper_recipe(
        n_train, epochs=epochs, unet_epochs=unet_epochs, quick=quick, seeds=seeds, on_gpu=on_gpu
    )


def _head(name: str, material: Material, workspace: Workspace) -> dict[str, Any]:
    """What a row's figures are of."""
    origin = decoder_origin(workspace.cache.spec)
    return {"set": name, "generated": material.is_generated(name), "decoder_origin": origin}


def _check_name(name: str, workspace: Workspace) -> None:
    """The paper's figures stand beside a set by its name, which must not be the other set's."""
    if name == TRANSFER or not name.replace("-", "").replace("_", "").isalnum():
        raise UsageError("a set cannot have this name", found=name, expected="letters, digits, - and _")
    paper_set = name.lower()  # under any spelling, the paper's figures stand beside it
    sources = {record.source.removeprefix(GENERATED) for record in workspace.cache.images}
    if paper_set in PAPER_SETS and sources & PAPER_SETS - {paper_set}:
        raise UsageError(
            f"the cache of {name} holds another set",
            found=", ".join(sorted(sources)),
            fix=f"give it under its own name, or as --set NAME={workspace.cache.url}",
        )


def training_images(workspace: Workspace, *, folds: int, split_seed: int = 0) -> int:
    """Images that train a fold; also refuses folds that the cache cannot have."""
    splits = make_folds(workspace.cache.images, folds, seed=split_seed)
    return min(len(split.train) for split in splits)
