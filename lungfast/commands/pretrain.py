"""``lungfast pretrain``: the training that made nano, again or longer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lungfast.commands import options as opt


@click.command("pretrain", epilog="Example: lungfast pretrain -o runs/nano")
@opt.output
@opt.resume
@opt.overwrite
@opt.device
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True)
@click.option("--steps", type=click.IntRange(1), help="Batches. [default: those of the shipped weights]")
@click.option(
    "--small-steps",
    type=click.IntRange(0),
    help="Of these, at half the side. [default: as above]",
)
@click.option("--batch-size", "batch", type=click.IntRange(1), help="X-rays a batch. [default: as above]")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option(
    "--workers", type=click.IntRange(0), default=1, show_default=True, help="Processes that draw X-rays."
)
@click.option("--quick", is_flag=True, help="Three steps: shows that it runs, trains nothing.")
def command(output: Path, **options: Any) -> None:
    """Train nano from nothing on generated X-rays: no patient's image, no other model's weights.

    Writes nano.safetensors, the losses as CSV and their curves; with the defaults, weights of the kind
    that the package ships (MODEL_CARD.md beside them says why not the same bytes).
    """
    from dataclasses import replace

    from lungfast.commands.screen import Screen
    from lungfast.compute import resolve_device
    from lungfast.studies.pretrain import FIGURE, QUICK, SUMMED_STEPS, WEIGHTS, PretrainRequest, pretrain
    from lungfast.trained.pretraining import PretrainingConfig

    config = QUICK if options["quick"] else PretrainingConfig()
    fields = ("steps", "small_steps", "batch", "seed")
    config = replace(config, **{name: options[name] for name in fields if options[name] is not None})
    request = PretrainRequest(
        config=config,
        output=output,
        device=resolve_device(options["device"]),
        **{name: options[name] for name in ("precision", "workers", "resume", "overwrite")},
    )
    with Screen() as screen:
        content = pretrain(request, screen)
    row = content["rows"][0]
    click.echo(
        f"{row['xrays']} generated X-rays, Dice {row['dice']:.3f} over the last {SUMMED_STEPS} steps"
        f" -> {output / WEIGHTS} (sha256 {row['sha256'][:12]}…), curves in {output / FIGURE}"
    )
