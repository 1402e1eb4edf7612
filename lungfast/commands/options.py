"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from lungfast.commands.lists import Names, Numbers

Function = TypeVar("Function", bound=Callable[..., Any])


PROMPTS = ("points", "box", "box-auto", "both", "both-auto")
LOSSES = ("dicefocal", "dicece")
RECIPES = ("paper", "best")


def compose(*options: Callable[[Function], Function]) -> Callable[[Function], Function]:
    """Several options as one decorator, shown in the order given."""

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def candidates(*, lr: str, wd: str) -> Callable[[Function], Function]:
    """--lr, --wd and --loss, each a list."""
    return compose(
        click.option(
            "--lr",
            "lrs",
            type=Numbers(above=0),
            default=lr,
            show_default=True,
            metavar="LIST",
            help="Learning rates, separated by commas.",
        ),
        click.option(
            "--wd",
            "wds",
            type=Numbers(least=0),
            default=wd,
            show_default=True,
            metavar="LIST",
            help="Weight decays (Adam's L2), separated by commas.",
        ),
        click.option(
            "--loss",
            "losses",
            type=Names(LOSSES),
            default="dicefocal",
            show_default=True,
            metavar="LIST",
            help="dicefocal, dicece or both.",
        ),
    )


output = click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The run folder to write."
)

seeds = click.option(
    "--seeds",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="So many seeds, beginning with --seed: more decoders in the same stack.",
)


def prompts(default: str) -> Callable[[Function], Function]:
    """--prompt, a list."""
    return click.option(
        "--prompt",
        "prompts",
        type=Names(PROMPTS),
        default=default,
        show_default=True,
        metavar="LIST",
        help="One or more of points, box-auto, both-auto; box and both take the ground truth's box.",
    )


mask_options = compose(
    click.option(
        "--surface",
        is_flag=True,
        help="Also HD95 and ASSD of the test masks, in pixels of the file (and mm where known); slow.",
    ),
    click.option(
        "--clean",
        is_flag=True,
        help="Also test scores after keeping the two largest components and filling holes.",
    ),
)

ensemble = click.option(
    "--ensemble/--no-ensemble",
    default=False,
    help="The --seeds of a fold decide together, by the mean of their logits, instead of being averaged as "
    "scores.",
)


def high_res(what: str) -> Callable[[Function], Function]:
    """--high-res, of the encoder or of the decoders."""
    return click.option("--high-res/--no-high-res", default=False, show_default=True, help=what)


resume = click.option("--resume", is_flag=True, help="Go on with an unfinished run of the same settings.")
overwrite = click.option("--overwrite", is_flag=True, help="Replace the run at -o.")
device = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 …")
memory = click.option(
    "--memory",
    default="auto",
    show_default=True,
    help="Memory bound, such as 8GB; auto: a third of the machine's, at most half of what is free.",
)
splitting = compose(
    click.option(
        "--split-seed", type=click.IntRange(0), default=0, show_default=True, help="Who is in which fold."
    ),
    click.option(
        "--folds",
        type=click.IntRange(3),
        default=5,
        show_default=True,
        help="Parts of the data: one tests, one validates, the rest trains (5: 60/20/20).",
    ),
)
scoring_options = compose(output, resume, overwrite, device, memory)

run_options = compose(
    output,
    resume,
    overwrite,
    click.option(
        "--save-logits",
        is_flag=True,
        help="Keep the scored logits (logits-*.h5), for rescanning thresholds.",
    ),
)

recipe = click.option(
    "--recipe",
    type=click.Choice(RECIPES),
    help="Settings that belong together: the paper's, or the best that are known. Options that are given "
    "besides count instead of the recipe's.",
)

arithmetic = compose(
    click.option(
        "--precision",
        type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
        default="auto",
        show_default=True,
        help="Training arithmetic; validation and scores are always fp32.",
    ),
    click.option(
        "--compile",
        "compile_",
        type=click.Choice(["auto", "on", "off"]),
        default="auto",
        show_default=True,
        help="torch.compile; auto: on a GPU, from 4,000 steps on (a CPU has kernels that are as fast).",
    ),
    click.option("--exact", is_flag=True, help="The slow reference: fp32, without torch.compile."),
)

training_options = compose(
    recipe,
    click.option(
        "--epochs",
        type=click.IntRange(1),
        default=60,
        show_default=True,
        help="Passes over the training images.",
    ),
    click.option(
        "--batch-size",
        type=click.IntRange(1),
        default=8,
        show_default=True,
        help="Images a step and decoder.",
    ),
    click.option(
        "--schedule",
        type=click.Choice(["onecycle", "constant"]),
        default="onecycle",
        show_default=True,
        help="Rise to --lr and fall to nothing, or stay at --lr (the paper).",
    ),
    click.option(
        "--val-every", type=click.IntRange(1), default=1, show_default=True, help="Epochs per validation."
    ),
    click.option(
        "--patience",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        help="Stop a decoder after this many validations without improvement (0: never).",
    ),
    click.option(
        "--keep",
        type=click.Choice(["best", "last"]),
        default="best",
        show_default=True,
        help="The epoch to keep: lowest validation loss, or the last.",
    ),
    click.option(
        "--average",
        type=click.FloatRange(0, 1, max_open=True),
        default=0.0,
        show_default=True,
        help="Validate and keep a moving average of the weights; its decay a step, such as 0.999 (0: none).",
    ),
    click.option(
        "--views",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Views of a training image to draw from, every epoch another; embed makes them with --views.",
    ),
    click.option(
        "--test-views",
        type=click.IntRange(1),
        default=1,
        show_default=True,
        help="Views of a validation or test image whose answers are averaged on the film.",
    ),
    high_res("Decoders read high-resolution features too; embed keeps them with --high-res."),
    click.option(
        "--seed",
        "seed_list",
        type=Numbers(least=0, whole=True),
        default="0",
        show_default=True,
        metavar="LIST",
        help="Row order, views and jitter; several train side by side (for `thresholds` one).",
    ),
    splitting,
    click.option(
        "--thresholds",
        type=click.Choice(["fine", "paper"]),
        default="fine",
        show_default=True,
        help="Scanned on validation images: 0.05 to 0.95 by 0.01, or 0.50 to 0.70 by 0.05.",
    ),
    device,
    arithmetic,
    memory,
)

prompt_options = compose(
    click.option(
        "--points",
        "points_per_lung",
        type=click.IntRange(1, 64),
        default=1,
        show_default=True,
        help="Points a lung.",
    ),
    click.option(
        "--placement",
        type=click.Choice(["deepest", "spread"]),
        default="deepest",
        show_default=True,
        help="Where in the average training mask the points lie.",
    ),
    click.option(
        "--point-jitter",
        type=click.FloatRange(0, 0.5),
        default=0.01,
        show_default=True,
        help="In training points are moved by a normal step of this share of the sides.",
    ),
    click.option(
        "--negative-points",
        type=click.IntRange(0, 64),
        default=0,
        show_default=True,
        help="Points that say: not here (between and around the lungs).",
    ),
    click.option(
        "--box",
        "box_mode",
        type=click.Choice(["whole", "per-lung"]),
        default="whole",
        show_default=True,
        help="One box around both lungs, or one prompt per lung merged by the maximum logit.",
    ),
)
