"""``lungfast cv``: all folds (and prompts, seeds and candidate settings) at once."""

from __future__ import annotations

from typing import Any

import click

from lungfast.commands import options as opt
from lungfast.errors import TrainingError, UsageError


@click.command(
    "cv",
    epilog="Examples: lungfast cv m.zarr --prompt points --recipe best -o runs/cv; "
    "lungfast cv m.zarr --prompt points --lr 1e-3 --epochs 60 --folds 5 -o runs/cv; "
    "lungfast cv m.zarr --prompt points,box,both,box-auto,both-auto --seeds 3 -o runs/table5",
)
@click.argument("cache")
@opt.candidates(lr="1e-3", wd="0")
@click.option("--compare-losses", is_flag=True, help="One row per --loss instead of choosing among them.")
@opt.prompts("points")
@opt.training_options
@opt.seeds
@opt.ensemble
@opt.prompt_options
@opt.mask_options
@opt.run_options
def command(cache: str, **options: Any) -> None:
    """Cross-validate on CACHE: every fold is trained at the same time.

    Folds are grouped by patient and stratified by label. Lists for --lr, --wd or --loss are chosen from per
    fold, on that fold's validation images; several prompts give one row each.
    """
    from lungfast.commands.screen import plain_or_terminal
    from lungfast.commands.study import prompts_from, report_where, run, seeds_from, with_recipe
    from lungfast.report.terminal import cv_table, fold_table
    from lungfast.studies.cv import CvConfig, cross_validate
    from lungfast.studies.on_request import Extras

    options = with_recipe(cache, options)
    if options["ensemble"] and options["save_logits"]:
        raise UsageError(
            "--save-logits keeps single decoders' logits", found="--ensemble", fix="leave one out"
        )
    config = CvConfig(
        prompts=prompts_from(options["prompts"], options),
        lrs=options["lrs"],
        wds=options["wds"],
        losses=options["losses"],
        compare_losses=options["prompts"] if options["compare_losses"] else (),
        folds=options["folds"],
        seeds=seeds_from(options),
        split_seed=options["split_seed"],
        ensemble=options["ensemble"],
        extras=Extras(surface=options["surface"], clean=options["clean"]),
    )
    content = run("cv", cache, config, options, lambda *given: cross_validate(config, *given))
    console = plain_or_terminal()
    for row in content["rows"]:
        console.print(fold_table(row))
    console.print(cv_table(content))
    console.print(report_where(options["output"]), soft_wrap=True)
    failed = [row["key"] for row in content["rows"] if row["status"] != "done"]
    if failed:
        raise TrainingError(
            f"every decoder of a fold diverged with prompt {', '.join(failed)}", fix="try a smaller --lr"
        )
