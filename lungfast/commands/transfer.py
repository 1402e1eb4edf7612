"""``lungfast transfer``: the decoders of one set on another, both ways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lungfast.commands import options as opt
from lungfast.commands.lists import not_an_option

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from lungfast.runs import RunFolder
    from lungfast.studies.cv import CvConfig
    from lungfast.studies.fitting import Listener
    from lungfast.studies.models import FinishedRun
    from lungfast.studies.session import ScoreBody
    from lungfast.studies.workspace import Workspace


_OF_RUNS = ("a", "b", "runs", "prompts", "output", "resume", "overwrite", "device", "memory")
"""What may be given besides ``--runs``."""


@click.command(
    "transfer",
    epilog="Examples: lungfast transfer m.zarr s.zarr --epochs 60 -o runs/transfer; "
    "lungfast transfer m.zarr s.zarr --runs runs/cv-m runs/cv-s -o runs/transfer",
)
@click.argument("a")
@click.argument("b")
@click.option(
    "--runs",
    nargs=2,
    type=click.Path(path_type=Path),
    metavar="RUN_A RUN_B",
    callback=not_an_option,
    help="Finished cv runs of A and of B, instead of training them now.",
)
@opt.candidates(lr="1e-3", wd="0")
@opt.prompts("points")
@opt.training_options
@opt.seeds
@opt.ensemble
@opt.prompt_options
@opt.run_options
def command(a: str, b: str, runs: tuple[Path, Path] | None, prompts: tuple[str, ...], **options: Any) -> None:
    """Train the folds of caches A and B, and test each set's decoders on the other set, unchanged.

    Threshold, points and hyperparameters are those of the set that trained. Images with the same pixels in
    both sets are dropped. A and B must come from the same encoder.
    """
    from lungfast.commands.screen import Screen, plain_or_terminal
    from lungfast.commands.study import request_from, tell_recipe, tell_unused, with_recipe
    from lungfast.report.terminal import transfer_table
    from lungfast.studies.meeting import Site
    from lungfast.studies.models import FinishedRun
    from lungfast.studies.rescoring import identity
    from lungfast.studies.session import run_scoring
    from lungfast.studies.transfer import TransferConfig, site_names, transfer

    if runs:
        tell_unused(_OF_RUNS, "with --runs, whose decoders are trained")
    workspaces = opened(a, b, options["device"])
    names = site_names(*workspaces)
    given = [FinishedRun.open(run) for run in runs or ()]
    options_of = {name: with_recipe(url, options) for name, url in zip(names, (a, b), strict=True)}
    if not runs:
        look_ahead(options_of.values(), workspaces)
    options = options_of[names[0]]
    first, second = (workspace.cache.fingerprint.data_sha256 for workspace in workspaces)
    config = TransferConfig(
        sites=names,
        data_sha256=(first, second),
        keys=tuple(prompts),
        results_sha256=tuple(map(identity, given)),
        training=None if runs else cv_config(prompts, options),
    )
    request = request_from("transfer", config, options, trains=not runs)
    memory_bytes = request.settings.memory_bytes // 2
    with Screen() as screen:

        def study_of(trained: Sequence[FinishedRun]) -> ScoreBody:
            sites = [
                Site(name=name, workspace=workspace, run=one)
                for name, workspace, one in zip(names, workspaces, trained, strict=True)
            ]
            return transfer(config, sites[0], sites[1], memory_bytes, screen)

        def body(run: RunFolder, made_with: dict[str, Any]) -> dict[str, Any]:
            for each in options_of.values():
                tell_recipe(each, screen)
            trained = [
                train(workspace, run.path / f"cv-{name}", config.training, options_of[name], screen)
                for name, workspace in zip(names, workspaces, strict=True)
            ]
            return study_of(trained)(run, made_with)

        parts = tuple(f"cv-{name}" for name in names)
        content = run_scoring(request, workspaces[0], study_of(given) if runs else body, parts=parts)
    console = plain_or_terminal()
    console.print(transfer_table(content))
    console.print(f"results: {options['output']}/results.json", soft_wrap=True)


def opened(a: str, b: str, device: str) -> tuple[Workspace, Workspace]:
    """Two different sets of one encoder."""
    from lungfast.compute import resolve_device
    from lungfast.studies.transfer import check_sets
    from lungfast.studies.workspace import Workspace

    one, two = (Workspace(url, device=resolve_device(device)) for url in (a, b))
    check_sets(one, two)
    return one, two


def look_ahead(options: Collection[dict[str, Any]], workspaces: Sequence[Workspace]) -> None:
    """Whether the caches have what both trainings read, before there is a folder."""
    for each, workspace in zip(options, workspaces, strict=True):
        workspace.check_views(each["views"], each["test_views"])
        workspace.check_high_res(asked=any(one["high_res"] for one in options))


def cv_config(kinds: Sequence[str], options: dict[str, Any]) -> CvConfig:
    """How both sets are trained."""
    from lungfast.commands.study import prompts_from, seeds_from
    from lungfast.studies.cv import CvConfig

    return CvConfig(
        prompts=prompts_from(kinds, options),
        lrs=options["lrs"],
        wds=options["wds"],
        losses=options["losses"],
        folds=options["folds"],
        seeds=seeds_from(options),
        split_seed=options["split_seed"],
        ensemble=options["ensemble"],
    )


def train(
    workspace: Workspace, folder: Path, config: CvConfig, options: dict[str, Any], screen: Listener
) -> FinishedRun:
    """The cross-validation of one set, in a folder of its own inside the run."""
    from lungfast.commands.study import request_from
    from lungfast.studies.cv import cross_validate
    from lungfast.studies.models import FinishedRun
    from lungfast.studies.session import run_study

    request = request_from("cv", config, options | {"output": folder, "resume": True, "overwrite": False})
    halved = replace(request.settings, memory_bytes=request.settings.memory_bytes // 2)
    request = replace(request, settings=halved)
    run_study(request, workspace, lambda *given: cross_validate(config, *given), screen)
    return FinishedRun.open(folder)
