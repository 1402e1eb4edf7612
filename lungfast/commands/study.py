"""From options to a study: what grid and cv have in common around their own settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungfast.errors import UsageError

if TYPE_CHECKING:
    from lungfast.frozen.prompts import PromptConfig
    from lungfast.records import Split
    from lungfast.studies.fitting import Settings
    from lungfast.studies.protocol import Study

Body = Callable[["Study", "tuple[Split, ...]", dict[str, Any]], dict[str, Any]]


def settings_from(options: Mapping[str, Any]) -> Settings:
    """The settings shared by every study, from parsed options."""
    from lungfast.compute import parse_memory
    from lungfast.scored.scores import DEFAULT_THRESHOLDS, PAPER_THRESHOLDS
    from lungfast.studies.fitting import Settings
    from lungfast.trained.trainer import TrainConfig

    scans = {"fine": DEFAULT_THRESHOLDS, "paper": PAPER_THRESHOLDS}
    names = ("epochs", "batch_size", "schedule", "val_every", "patience", "keep")
    return Settings(
        train=TrainConfig(**{name: options[name] for name in names}),
        memory_bytes=parse_memory(options["memory"]),
        precision=options["precision"],
        compile=options["compile_"],
        thresholds=tuple(map(float, scans[options["thresholds"]])),
        save_logits=options["save_logits"],
    )


def prompts_from(kinds: Sequence[str], options: Mapping[str, Any]) -> tuple[PromptConfig, ...]:
    """One prompt a kind; ``--box`` counts for those that have one."""
    from lungfast.frozen.prompts import PromptConfig

    if options["box_mode"] != "whole" and set(kinds) == {"points"}:
        raise UsageError(
            "--box without a box", found="--prompt points", expected="box, box-auto, both, both-auto"
        )
    return tuple(
        PromptConfig(
            kind=kind,  # type: ignore[arg-type]
            points_per_lung=options["points_per_lung"],
            placement=options["placement"],
            negative_points=options["negative_points"],
            box="whole" if kind == "points" else options["box_mode"],
        )
        for kind in kinds
    )


def run_study(name: str, cache: str, config: Any, options: Mapping[str, Any], body: Body) -> dict[str, Any]:
    """Open cache and run folder, run ``body`` under the live screen; a complete run is just read back.

    Whatever can be refused is refused before the folder is made: a corrected command must not find it there.
    """
    from lungfast.commands.screen import Screen
    from lungfast.compute import resolve_device, resolve_precision
    from lungfast.data.splits import make_folds
    from lungfast.runs import open_run
    from lungfast.studies.protocol import Study
    from lungfast.studies.workspace import Workspace, stack_width

    settings = settings_from(options)
    device = resolve_device(options["device"])
    resolve_precision(settings.precision, device)
    stack_width(settings.memory_bytes, 1, device)
    workspace = Workspace(cache, device=device)
    splits = make_folds(workspace.cache.images, config.folds, seed=config.split_seed)
    question = question_of(name, workspace, config, settings)
    with open_run(
        options["output"], question, resume=options["resume"], overwrite=options["overwrite"]
    ) as run:
        if run.complete:
            return dict(run.read("results.json"))
        with Screen() as screen:
            study = Study(workspace, run, settings, screen)
            return body(study, splits, made_with(workspace, config, settings))


def question_of(name: str, workspace: Any, config: Any, settings: Settings) -> dict[str, Any]:
    """What decides the answer; the memory bound does not (the width it allows is kept in the run)."""
    return {
        "study": name,
        "config": asdict(config),
        "settings": asked(settings),
        "cache": asdict(workspace.cache.fingerprint),
        "device": workspace.device.type,
    }


def asked(settings: Settings) -> dict[str, Any]:
    """The settings that a result depends on; precision and compilation as asked, not as chosen."""
    content = asdict(settings)
    del content["memory_bytes"], content["train"]["precision"], content["train"]["compile"]
    return content


def made_with(workspace: Any, config: Any, settings: Settings) -> dict[str, Any]:
    """Provenance: versions, hardware, the cache, the study's configuration with its seeds, the protocol."""
    from lungfast.runs import provenance
    from lungfast.scored.scores import DEFAULT_EMPTY

    cache = workspace.cache
    return provenance(
        str(workspace.device),
        cache={
            "url": cache.url,
            "encoder": asdict(cache.spec),
            "fingerprint": asdict(cache.fingerprint),
            "images": len(cache.images),
        },
        config=asdict(config),
        settings=asked(settings),
        scores={
            "size": "native",
            "empty_masks": DEFAULT_EMPTY.name,
            "interval": "95 % percentile bootstrap over patients, 10,000 draws",
        },
    )


def report_where(output: Path) -> str:
    return f"results: {output}/results.json, per image: {output}/per_image.csv, decoders: {output}/decoders/"
