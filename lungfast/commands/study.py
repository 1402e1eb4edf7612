"""From options to a study: what grid and cv have in common around their own settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungfast.errors import RunError

if TYPE_CHECKING:
    from lungfast.frozen.prompts import PromptConfig
    from lungfast.studies.protocol import Settings, Study

Body = Callable[["Study", dict[str, Any]], dict[str, Any]]


def settings_from(options: Mapping[str, Any]) -> Settings:
    """The settings shared by every study, from parsed options."""
    from lungfast.compute import parse_memory
    from lungfast.studies.protocol import Settings
    from lungfast.trained.trainer import TrainConfig

    names = ("epochs", "batch_size", "schedule", "val_every", "patience", "keep")
    return Settings(
        train=TrainConfig(**{name: options[name] for name in names}),
        memory_bytes=parse_memory(options["memory"]),
        precision=options["precision"],
        compile=options["compile_"],
        save_logits=options["save_logits"],
    )


def prompt_from(kind: str, options: Mapping[str, Any]) -> PromptConfig:
    from lungfast.frozen.prompts import PromptConfig

    return PromptConfig(
        kind=kind,  # type: ignore[arg-type]
        points_per_lung=options["points_per_lung"],
        placement=options["placement"],
        negative_points=options["negative_points"],
        box=options["box_mode"],
    )


def run_study(name: str, cache: str, config: Any, options: Mapping[str, Any], body: Body) -> dict[str, Any]:
    """Open cache and run folder, run ``body`` under the live screen; a complete run is just read back."""
    from lungfast.commands.screen import Screen
    from lungfast.compute import resolve_device
    from lungfast.runs import open_run
    from lungfast.studies.protocol import Study
    from lungfast.studies.workspace import Workspace

    settings = settings_from(options)
    device = resolve_device(options["device"])
    workspace = Workspace(cache, device=device)
    question = question_of(name, workspace, config, settings)
    with open_run(
        options["output"], question, resume=options["resume"], overwrite=options["overwrite"]
    ) as run:
        if run.complete:
            return dict(run.read("results.json"))
        with Screen() as screen:
            study = Study(workspace, run, settings, screen)
            return body(study, made_with(workspace, config))


def question_of(name: str, workspace: Any, config: Any, settings: Settings) -> dict[str, Any]:
    """What decides the answer; the memory bound does not (the width it allows is kept in the run)."""
    asked = asdict(settings)
    del asked["memory_bytes"]
    return {
        "study": name,
        "config": asdict(config),
        "settings": asked,
        "cache": asdict(workspace.cache.fingerprint),
        "device": workspace.device.type,
    }


def made_with(workspace: Any, config: Any) -> dict[str, Any]:
    """Provenance: versions, hardware, the cache, and the study's own configuration with its seeds."""
    from lungfast.runs import provenance

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
    )


def report_where(output: Path) -> str:
    if not (output / "results.json").exists():
        raise RunError(f"{output} has no results")
    return f"results: {output}/results.json, per image: {output}/per_image.csv, decoders: {output}/decoders/"
