"""``lungfast reproduce``: every table and figure of the paper, and the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lungfast.commands import options as opt
from lungfast.errors import UsageError

if TYPE_CHECKING:
    from lungfast.studies.fitting import Listener


class Budget(click.ParamType):  # type: ignore[type-arg]
    """``60`` for every set, or ``montgomery=100,shenzhen=20``."""

    name = "budget"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, dict):
            return value
        budget: dict[str, int] = {}
        for part in str(value).split(","):
            name, _, number = part.rpartition("=")
            if not number.strip().isdecimal() or int(number) < 1 or name.strip() in budget:
                self.fail(f"found {value!r}, expected 60 or montgomery=100,shenzhen=20", param, ctx)
            budget[name.strip()] = int(number)
        return budget


@click.command(
    "reproduce",
    epilog="Examples: lungfast reproduce --montgomery m.zarr --shenzhen s.zarr -o runs/paper; "
    "lungfast reproduce --montgomery m.zarr --shenzhen s.zarr --quick -o runs/look",
)
@click.option("--montgomery", metavar="CACHE", help="The embedded Montgomery set.")
@click.option("--shenzhen", metavar="CACHE", help="The embedded Shenzhen set.")
@click.option(
    "--set", "others", metavar="NAME=CACHE", multiple=True, help="A set of your own; two sets at the most."
)
@click.option(
    "--recipe",
    type=click.Choice(["paper"]),
    default="paper",
    show_default=True,
    help="The paper's protocol: constant rate, last epoch, its grid, its thresholds.",
)
@click.option("--epochs", type=Budget(), help="Another budget: 60, or montgomery=100,shenzhen=20.")
@click.option("--unet-epochs", type=Budget(), help="The same for the U-Net, which has a budget of its own.")
@click.option("--quick", is_flag=True, help="A first look: few epochs, a small U-Net budget.")
@click.option("--best", is_flag=True, help="Also the best recipe, on the same folds, beside the paper's.")
@click.option(
    "--seeds", type=click.IntRange(1), default=1, show_default=True, help="Seeds of every fold in cv."
)
@opt.mask_options
@opt.output
@click.option(
    "--resume",
    is_flag=True,
    help="Go on where it stopped; what is finished is kept, what was left out is tried.",
)
@click.option("--overwrite", is_flag=True, help="Replace the reproduction at -o.")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="The SAM checkpoint of the caches, for the quality flag on spoilt images.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1 …")
@opt.arithmetic
@opt.memory
def command(montgomery: str | None, shenzhen: str | None, others: tuple[str, ...], **options: Any) -> None:
    """Run every study of the paper on one or two caches, and write the report.

    Says first how long it will take. What is finished is never run again: give --resume after a stop.
    """
    from lungfast.commands.screen import Screen

    caches = named(montgomery, shenzhen, others)
    with Screen() as screen:
        run_reproduction(caches, options, screen)
    show(options["output"])


def named(montgomery: str | None, shenzhen: str | None, others: tuple[str, ...]) -> dict[str, str]:
    """Caches by the name of their set."""
    caches = {name: url for name, url in (("montgomery", montgomery), ("shenzhen", shenzhen)) if url}
    for other in others:
        name, _, url = other.partition("=")
        if not name or not url or name in caches or not name.replace("-", "").replace("_", "").isalnum():
            raise UsageError("--set cannot be used", found=other, expected="NAME=CACHE, each name once")
        caches[name] = url
    if not 1 <= len(caches) <= 2:
        raise UsageError(
            "reproduce takes one or two caches",
            found=str(len(caches)),
            expected="--montgomery, --shenzhen, --set",
        )
    return caches


def run_reproduction(caches: dict[str, str], options: dict[str, Any], listener: Listener) -> dict[str, Any]:
    """Open the caches, make the recipe, run."""
    from lungfast.commands.study import arithmetic_of
    from lungfast.compute import parse_memory, resolve_device
    from lungfast.studies.reproduce import paper_on, reproduce
    from lungfast.studies.steps import Order

    workspaces, recipe = paper_on(
        caches,
        device=resolve_device(options["device"]),
        epochs=budget_of("--epochs", options["epochs"], caches),
        unet_epochs=budget_of("--unet-epochs", options["unet_epochs"], caches),
        quick=options["quick"],
        seeds=options["seeds"],
    )
    recipe = replace(recipe, **{name: options[name] for name in ("best", "surface", "clean")})
    precision, compile_ = arithmetic_of(options)
    order = Order(
        output=options["output"],
        recipe=recipe,
        memory_bytes=parse_memory(options["memory"]),
        precision=precision,
        compile_=compile_,
        checkpoint=options["checkpoint"],
        resume=options["resume"],
        overwrite=options["overwrite"],
    )
    return reproduce(order, workspaces, listener)


def budget_of(option: str, budget: dict[str, int] | None, caches: dict[str, str]) -> dict[str, int]:
    """Epochs by set; a number without a name counts for every set that is not named."""
    given = dict(budget or {})
    strangers = set(given) - set(caches) - {""}
    if strangers:
        raise UsageError(f"{option} names a set that is not there", found=", ".join(sorted(strangers)))
    everywhere = given.pop("", None)
    return {name: everywhere for name in caches if everywhere} | given


def show(folder: Path) -> None:
    from lungfast.commands.screen import plain_or_terminal
    from lungfast.report.terminal import reproduction_table
    from lungfast.runs import read_json

    console = plain_or_terminal()
    content = read_json(folder / "results.json")
    console.print(reproduction_table(content))
    for claim in content["claims"]:
        console.print(f"{claim['verdict']}: {claim['text']}", soft_wrap=True)
    console.print(
        f"report: {folder}/report.html, tables: {folder}/report.md, {folder}/tables.tex", soft_wrap=True
    )
