"""``lungfast baseline``: the model before fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from lungfast.commands import options as opt


@click.command(
    "baseline",
    epilog="Example: lungfast baseline m.zarr --prompt points,box,both --multimask -o runs/baseline",
)
@click.argument("cache")
@opt.prompts(",".join(opt.PROMPTS))
@click.option(
    "--multimask", is_flag=True, help="Also the best of SAM's three masks, by the IoU that it predicts."
)
@click.option(
    "--prior-from",
    metavar="CACHE",
    help="Take points, boxes and the threshold from all images of this cache (of generated X-rays, say).",
)
@opt.splitting
@opt.prompt_options
@opt.scoring_options
def command(cache: str, output: Path, *, multimask: bool, prior_from: str | None, **options: Any) -> None:
    """Score CACHE's initial decoder on the test images of every fold: mask token 0, threshold 0.5.

    Nothing is trained or chosen. Points and automatic boxes come from each fold's own training images, or,
    so that no mask of CACHE is used, from another cache with --prior-from.
    """
    from lungfast.commands.screen import plain_or_terminal
    from lungfast.commands.study import prompts_from, run_scoring
    from lungfast.compute import resolve_device
    from lungfast.report.terminal import cv_table
    from lungfast.studies.baseline import BaselineConfig, baseline
    from lungfast.studies.workspace import Workspace

    elsewhere = None
    if prior_from is not None:
        elsewhere = Workspace(prior_from, device=resolve_device(options["device"]))
    config = BaselineConfig(
        prompts=prompts_from(options["prompts"], options),
        multimask=multimask,
        folds=options["folds"],
        split_seed=options["split_seed"],
        prior_sha256=elsewhere.cache.fingerprint.data_sha256 if elsewhere else None,
    )
    content = run_scoring(
        "baseline",
        cache,
        config,
        options | {"output": output},
        lambda *given: baseline(config, *given, prior_from=elsewhere),
    )
    console = plain_or_terminal()
    console.print(cv_table(content, "before fine-tuning, mean ± std over folds"))
    if elsewhere is not None:
        console.print(f"points, boxes and thresholds are those of {prior_from}", soft_wrap=True)
    if content["rows"][0]["untrained"]:
        console.print("this decoder was never trained: chance level", soft_wrap=True)
    if content["rows"][0]["decoder_origin"] == "generated":
        console.print(
            "nano was trained to segment lungs in generated X-rays: these figures are not SAM's",
            soft_wrap=True,
        )
    console.print(f"results: {output}/results.json", soft_wrap=True)
