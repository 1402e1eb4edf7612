"""``lungfast thresholds``: F1 over thresholds, from a cache or from a run with stored logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lungfast.commands import options as opt
from lungfast.errors import UsageError

_OF_RUN = ("source", "of_run", "output", "resume", "overwrite", "device", "memory")
"""What may be given where decoders are not trained first."""


@click.command(
    "thresholds",
    epilog="Examples: lungfast thresholds m.zarr --prompt points,box,both -o runs/thresholds; "
    "lungfast thresholds runs/cv -o runs/rescan",
)
@click.argument("source", metavar="CACHE|RUN")
@click.option("--cache", "of_run", metavar="CACHE", help="Where a RUN's cache is, if it has moved.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=1e-3, show_default=True)
@click.option("--wd", type=click.FloatRange(0), default=0.0, show_default=True)
@click.option("--loss", type=click.Choice(opt.LOSSES), default="dicefocal", show_default=True)
@opt.prompts("points,box,both")
@opt.training_options
@opt.prompt_options
@opt.run_options
def command(source: str, of_run: str | None, **options: Any) -> None:
    """F1 at every threshold on validation images; the best one applied to test images.

    From a CACHE one decoder per prompt is trained first, on fold 0's split. A RUN that was made with
    --save-logits is scanned again without training.
    """
    from lungfast.commands.screen import plain_or_terminal
    from lungfast.report.terminal import threshold_table
    from lungfast.runs import QUESTION

    is_run = (Path(source) / QUESTION).exists()
    content = _rescan(Path(source), of_run, options) if is_run else _train(source, options)
    console = plain_or_terminal()
    console.print(threshold_table(content))
    console.print(f"results: {options['output']}/results.json", soft_wrap=True)


def _train(cache: str, options: dict[str, Any]) -> dict[str, Any]:
    from lungfast.commands.study import prompts_from, run, with_recipe
    from lungfast.studies.thresholds import ThresholdsConfig, thresholds

    options = with_recipe(cache, options)
    if len(options["seed_list"]) > 1:
        found = ",".join(map(str, options["seed_list"]))
        raise UsageError(
            "thresholds trains one decoder a prompt", found=f"--seed {found}", fix="give one seed"
        )
    config = ThresholdsConfig(
        prompts=prompts_from(options["prompts"], options),
        lrs=(options["lr"],),
        wds=(options["wd"],),
        losses=(options["loss"],),
        folds=options["folds"],
        seeds=options["seed_list"],
        split_seed=options["split_seed"],
    )
    return run("thresholds", cache, config, options, lambda *given: thresholds(config, *given))


def _rescan(source: Path, cache: str | None, options: dict[str, Any]) -> dict[str, Any]:
    from lungfast.commands.study import run_scoring, tell_unused
    from lungfast.studies.models import FinishedRun
    from lungfast.studies.rescoring import identity
    from lungfast.studies.thresholds import RescanConfig, rescan

    tell_unused(_OF_RUN, "with a RUN, whose decoders are trained")
    finished = FinishedRun.open(source)
    config = RescanConfig(run=str(source), results_sha256=identity(finished))
    url = cache or finished.cache_url
    return run_scoring(
        "thresholds",
        url,
        config,
        options,
        lambda workspace, _, listener: rescan(finished, workspace, listener),
    )
