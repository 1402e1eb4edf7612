"""The command line: parse, run one study, render. One file per command; heavy imports wait until needed."""

from __future__ import annotations

import importlib
import io
import os
import sys
import traceback
from contextlib import suppress
from typing import Any

import click

from lungfast import __version__
from lungfast.errors import LungfastError
from lungfast.files import NAMES

COMMANDS = {
    "embed": "Encode a dataset once with the frozen image encoder, into a cache.",
    "baseline": "Score the model before fine-tuning, on the test images of every fold.",
    "grid": "Train every learning rate x weight decay at once; choose on validation.",
    "train": "Learning curves: losses by epoch, and where they stop improving.",
    "cv": "Cross-validate: all folds at once.",
    "thresholds": "F1 over thresholds: chosen on validation, applied to test.",
    "transfer": "Test the decoders of one set on another, both ways.",
    "jitter": "F1 against the perturbation of box prompts.",
    "unet": "Train and test a U-Net on the very same folds.",
    "reproduce": "Every table and figure of the paper, and the report.",
    "report": "Write the report of finished studies again.",
    "robustness": "F1 on films that are turned, cut, badly exposed, noisy, compressed …",
    "quality": "Calibrate the quality flag that predict raises, and measure it.",
    "predict": "Segment X-rays with a trained run.",
    "export": "Put a trained decoder back into a full SAM checkpoint.",
    "cache": "Look at a cache, or carry it as one HDF5 file.",
    "pretrain": "Train nano again on generated X-rays.",
    "phantom": "Generate chest X-rays with lung masks, in the official layouts.",
    "demo": "The whole chain on generated X-rays, in minutes.",
}


INTERRUPTED = (
    "interrupted; embed goes on when the same command is given again, "
    "studies go on from their last checkpoint with --resume"
)


class Lungfast(click.Group):
    """Loads a command when it is called, and turns every user error into one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"lungfast.commands.{cmd_name}")
        return module.command  # type: ignore[no-any-return]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A word that is no command is answered with the nearest one."""
        if args[0] not in COMMANDS:
            import difflib  # only where it is asked

            for near in difflib.get_close_matches(args[0], COMMANDS, n=1):
                ctx.fail(f"No such command {args[0]!r}. Did you mean {near!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """click's main with one-line errors: exit code 2 for usage, 1 for data, 130 for Ctrl-C."""
        kwargs["standalone_mode"] = False
        out = sys.stdout
        if isinstance(out, io.TextIOWrapper) and out.errors == "strict":
            out.reconfigure(errors=NAMES)  # what its encoding has not
        try:
            code = super().main(*args, **kwargs)
        except LungfastError as error:
            _stop(str(error), error.exit_code)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.MissingParameter as error:
            where = f" -> see {error.ctx.command_path} --help" if error.ctx else ""
            _stop(" ".join(error.format_message().split()).rstrip(".") + where, error.exit_code)
        except click.ClickException as error:
            _stop(" ".join(error.format_message().split()), error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            _stop(INTERRUPTED, 130)
        except OSError as error:
            if not _of_output(error):
                raise
            with suppress(AttributeError, OSError):  # what is still to be written is dropped
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if isinstance(error, BrokenPipeError):
                sys.exit(1)
            _stop(f"standard output: {error.strerror}", 1)
        sys.exit(code if isinstance(code, int) else 0)


def _of_output(error: OSError) -> bool:
    """Whether click or rich met it, who write to the terminal and nowhere else."""
    *_, last = traceback.walk_tb(error.__traceback__)
    return last[0].f_globals["__name__"].partition(".")[0] in {"click", "rich"}


def _stop(line: str, code: int) -> None:
    click.echo(f"lungfast: {line}", err=True)
    sys.exit(code)


@click.group(
    cls=Lungfast,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `lungfast demo`. Every command has examples in its --help.",
)
@click.version_option(__version__, prog_name="lungfast")
def main() -> None:
    """Adapt the Segment Anything Model to lung segmentation in chest X-rays, in minutes.

    The image encoder runs once per image (embed); after that, many small mask decoders train on the cached
    embeddings at once. `reproduce` runs a whole paper on them.
    """
