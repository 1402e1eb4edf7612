"""``lungfast cv``: all folds (and prompts, and candidate settings) at once."""

from __future__ import annotations

from typing import Any

import click

from lungfast.commands import options as opt
from lungfast.errors import TrainingError


@click.command(
    "cv",
    epilog="Examples: lungfast cv m.zarr --prompt points --lr 1e-3 --epochs 60 --folds 5 -o runs/cv; "
    "lungfast cv m.zarr --prompt points,box-auto --lr 1e-4,1e-3 -o runs/choose",
)
@click.argument("cache")
@opt.candidates(lr="1e-3", wd="0")
@click.option(
    "--prompt",
    "prompts",
    type=opt.Names(opt.PROMPTS),
    default="points",
    show_default=True,
    help="One or more of points, box-auto, both-auto; box and both take the ground truth's box.",
)
@opt.training_options
@opt.prompt_options
@opt.run_options
def command(cache: str, **options: Any) -> None:
    """Cross-validate on CACHE: every fold is trained at the same time.

    Folds are grouped by patient and stratified by label. Lists for --lr, --wd or --loss are chosen from per
    fold, on that fold's validation images; several prompts give one row each.
    """
    from lungfast.commands.screen import plain_or_terminal
    from lungfast.commands.study import prompts_from, report_where, run_study
    from lungfast.report.terminal import cv_table, fold_table
    from lungfast.studies.cv import CvConfig, cross_validate

    config = CvConfig(
        prompts=prompts_from(options["prompts"], options),
        lrs=options["lrs"],
        wds=options["wds"],
        losses=options["losses"],
        folds=options["folds"],
        seed=options["seed"],
        split_seed=options["split_seed"],
    )
    content = run_study("cv", cache, config, options, lambda *given: cross_validate(config, *given))
    console = plain_or_terminal()
    for row in content["rows"]:
        console.print(fold_table(row))
    console.print(cv_table(content))
    failed = [row["prompt"] for row in content["rows"] if row["status"] != "done"]
    console.print(report_where(options["output"]), soft_wrap=True)
    if failed:
        raise TrainingError(
            f"every decoder of a fold diverged with prompt {', '.join(failed)}", fix="try a smaller --lr"
        )
