"""``lungfast train``: learning curves on fold 0's split."""

from __future__ import annotations

from typing import Any

import click

from lungfast.commands import options as opt


@click.command(
    "train", epilog="Example: lungfast train m.zarr --prompt points,box --epochs 150 -o runs/curve"
)
@click.argument("cache")
@opt.candidates(lr="1e-3", wd="0")
@opt.prompts("points")
@opt.training_options
@opt.seeds
@opt.prompt_options
@opt.run_options
def command(cache: str, **options: Any) -> None:
    """Train one decoder for every combination of the lists, and keep its learning curve.

    Shown is the epoch of the lowest validation loss, and the first within 1 % of it: after that nothing
    improves any more.
    """
    from lungfast.commands.screen import plain_or_terminal
    from lungfast.commands.study import prompts_from, report_where, run, seeds_from, with_recipe
    from lungfast.report.terminal import curve_table
    from lungfast.studies.curve import CurveConfig, learning_curves

    options = with_recipe(cache, options)
    config = CurveConfig(
        prompts=prompts_from(options["prompts"], options),
        lrs=options["lrs"],
        wds=options["wds"],
        losses=options["losses"],
        folds=options["folds"],
        seeds=seeds_from(options),
        split_seed=options["split_seed"],
    )
    content = run("train", cache, config, options, lambda *given: learning_curves(config, *given))
    console = plain_or_terminal()
    console.print(curve_table(content))
    console.print(report_where(options["output"]), soft_wrap=True)
