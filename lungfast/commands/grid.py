"""``lungfast grid``: learning rate x weight decay (x loss, prompt, seed), all at once."""

from __future__ import annotations

from typing import Any

import click

from lungfast.commands import options as opt


@click.command(
    "grid",
    epilog="Example: lungfast grid m.zarr --lr 1e-5,1e-4,1e-3 --wd 0,1e-1,1e-3 --epochs 100 -o runs/grid",
)
@click.argument("cache")
@opt.candidates(lr="1e-5,1e-4,1e-3", wd="0,1e-1,1e-3")
@opt.prompts("points")
@opt.training_options
@opt.seeds
@opt.prompt_options
@opt.run_options
def command(cache: str, **options: Any) -> None:
    """Train every combination of the lists at once, on fold 0's split.

    CACHE is made by `lungfast embed`. Epoch, threshold and configuration are chosen on validation images;
    test images are scored for the winner only.
    """
    from lungfast.commands.screen import plain_or_terminal
    from lungfast.commands.study import prompts_from, report_where, run, seeds_from, with_recipe
    from lungfast.report.terminal import grid_table
    from lungfast.studies.grid import GridConfig, grid

    options = with_recipe(cache, options, chosen=("lrs", "wds"))
    config = GridConfig(
        lrs=options["lrs"],
        wds=options["wds"],
        losses=options["losses"],
        prompts=prompts_from(options["prompts"], options),
        folds=options["folds"],
        seeds=seeds_from(options),
        split_seed=options["split_seed"],
    )
    content = run("grid", cache, config, options, lambda *given: grid(config, *given))
    console = plain_or_terminal()
    console.print(grid_table(content))
    console.print(report_where(options["output"]), soft_wrap=True)
