"""From options to a request: what the commands of all studies have in common around their own settings."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lungfast.errors import UsageError

if TYPE_CHECKING:
    from lungfast.frozen.prompts import PromptConfig
    from lungfast.records import EncoderSpec
    from lungfast.studies.fitting import Listener, Settings
    from lungfast.studies.recipes import TrainingRecipe
    from lungfast.studies.session import Body, Request, ScoreBody
    from lungfast.studies.workspace import Workspace


def settings_from(options: Mapping[str, Any]) -> Settings:
    """The settings shared by every study, from parsed options."""
    from lungfast.compute import parse_memory
    from lungfast.studies.fitting import Settings
    from lungfast.studies.recipes import SCANS, TRAINED_BY
    from lungfast.trained.trainer import TrainConfig

    precision, compile_ = arithmetic_of(options)
    return Settings(
        train=TrainConfig(**{name: options[name] for name in TRAINED_BY}),
        memory_bytes=parse_memory(options["memory"]),
        precision=precision,
        compile=compile_,
        thresholds=SCANS[options["thresholds"]],
        save_logits=options["save_logits"],
        views=options["views"],
        test_views=options["test_views"],
        high_res=options["high_res"],
        recipe=options.get("recipe_text", ""),
    )


def arithmetic_of(options: Mapping[str, Any]) -> tuple[str, str]:
    """Precision and compilation as asked for; UsageError where ``--exact`` contradicts them."""
    precision, compile_ = options["precision"], options["compile_"]
    if not options["exact"]:
        return precision, compile_
    for name, found, exact in (("precision", precision, "fp32"), ("compile", compile_, "off")):
        if found not in {"auto", exact}:
            raise UsageError(f"--exact contradicts --{name}", found=found, fix="leave one of them out")
    return "fp32", "off"


def with_recipe(cache: str, options: dict[str, Any], *, chosen: Sequence[str] = ()) -> dict[str, Any]:
    """The options with those of ``--recipe`` for the images of a cache, where the user gave none.

    ``chosen``: names of options that the command chooses for itself. What becomes of the recipe is one line,
    ``recipe_text``.
    """
    from lungfast.frozen.cache import EmbeddingCache
    from lungfast.studies.recipes import OF_THE_CACHE, training_recipe

    if options["recipe"] is None:
        return options
    recipe, opened = training_recipe(options["recipe"]), EmbeddingCache.open(cache)
    values = recipe.options_for(opened, options["folds"])
    known = [name for name in values if name in options]
    given = [name for name in known if was_given(name)]
    taken = {name: values[name] for name in known if name not in {*given, *chosen}}
    changed = [*given, *(name for name in OF_THE_CACHE if name in taken)]
    text = recipe.told(opened.spec, options | taken, values, changed)
    return options | taken | {"recipe_text": text, "lacks_high_res": _lacks(recipe, opened.spec)}


def tell_recipe(options: Mapping[str, Any], listener: Listener) -> None:
    """What the recipe came to, and what it lacks."""
    if not options.get("recipe_text"):
        return
    from lungfast.report.table import counted
    from lungfast.studies.recipes import training_recipe

    recipe = training_recipe(options["recipe"])
    at_test = f", averaged over {n}" if (n := options["test_views"]) > 1 else ""
    listener.note(
        f"recipe {options['recipe_text']}: {counted(options['epochs'], 'epoch')}, "
        f"{counted(options['views'], 'view')}{at_test}"
    )
    for name, what in (("views", "that the recipe trains on"), ("test_views", "that it averages over")):
        if options[name] < getattr(recipe, name) and not was_given(name):
            listener.note(
                f"the cache holds {options[name]} of the {getattr(recipe, name)} views {what}: "
                f"lungfast embed … --recipe {recipe.name} makes them"
            )
    if options["lacks_high_res"] and not was_given("high_res"):
        listener.note(
            "the cache holds no high-resolution features, which the recipe's decoders read: "
            f"lungfast embed … --recipe {recipe.name} keeps them"
        )


def _lacks(recipe: TrainingRecipe, spec: EncoderSpec) -> bool:
    return recipe.wants_high_res(spec) and not spec.has_high_res


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
            point_jitter=options["point_jitter"],
            box="whole" if kind == "points" else options["box_mode"],
        )
        for kind in kinds
    )


def seeds_from(options: Mapping[str, Any]) -> tuple[int, ...]:
    """``--seed 2,7`` as given; ``--seeds 5`` after ``--seed 2``: 2, 3, 4, 5, 6."""
    given, n = options["seed_list"], options["seeds"]
    if len(given) == 1:
        return tuple(range(given[0], given[0] + n))
    if n > 1:
        raise UsageError(
            "--seed lists the seeds and --seeds counts them",
            found=f"{len(given)} listed, {n} counted",
            fix="leave one of them out",
        )
    return tuple(given)


def request_from(study: str, config: Any, options: Mapping[str, Any], *, trains: bool = True) -> Request:
    """What is asked for; a study that trains nothing is told the memory bound alone."""
    from lungfast.compute import parse_memory
    from lungfast.studies.session import Request, ScoreSettings

    return Request(
        study=study,
        config=config,
        settings=settings_from(options)
        if trains
        else ScoreSettings(memory_bytes=parse_memory(options["memory"])),
        output=options["output"],
        resume=options["resume"],
        overwrite=options["overwrite"],
    )


def run(study: str, cache: str, config: Any, options: Mapping[str, Any], body: Body) -> dict[str, Any]:
    """Open the cache and run a study that trains, under the live screen."""
    from lungfast.commands.screen import Screen
    from lungfast.compute import resolve_device
    from lungfast.studies.session import run_study
    from lungfast.studies.workspace import Workspace

    request = request_from(study, config, options)
    workspace = Workspace(cache, device=resolve_device(options["device"]))
    with Screen() as screen:
        tell_recipe(options, screen)
        return run_study(request, workspace, body, screen)


def run_scoring(
    study: str,
    cache: str,
    config: Any,
    options: Mapping[str, Any],
    body_of: Callable[[Workspace, int, Listener], ScoreBody],
) -> dict[str, Any]:
    """The same for a study that trains nothing; ``body_of`` takes the cache, the memory bound, the screen."""
    from lungfast.commands.screen import Screen
    from lungfast.compute import resolve_device
    from lungfast.studies import session
    from lungfast.studies.workspace import Workspace

    request = request_from(study, config, options, trains=False)
    workspace = Workspace(cache, device=resolve_device(options["device"]))
    with Screen() as screen:
        body = body_of(workspace, request.settings.memory_bytes, screen)
        return session.run_scoring(request, workspace, body)


def was_given(name: str) -> bool:
    """Whether the user gave this option of the command, and not its default."""
    return click.get_current_context().get_parameter_source(name) is ParameterSource.COMMANDLINE


def tell_unused(used: Container[str], why: str) -> None:
    """A line on standard error for every option of this command that was given and is none of ``used``."""
    for option in click.get_current_context().command.params:
        if option.name not in used and was_given(option.name or ""):
            click.echo(f"{option.opts[0]} has no use {why}", err=True)


def report_where(output: Path) -> str:
    return f"results: {output}/results.json, per image: {output}/per_image.csv, decoders: {output}/decoders/"
