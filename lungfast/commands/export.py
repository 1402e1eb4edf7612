"""``lungfast export``: a trained decoder back into a full SAM checkpoint."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    "export", epilog="Example: lungfast export runs/cv --checkpoint sam_vit_h_4b8939.pth -o sam_lungs.pth"
)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    required=True,
    help="The SAM checkpoint that made the embeddings.",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The checkpoint to write."
)
@click.option("--decoder", help="A decoder of the run; by default the one that validation prefers.")
@click.option("--overwrite", is_flag=True, help="Replace the file at -o.")
def command(run: Path, checkpoint: Path, output: Path, decoder: str | None, *, overwrite: bool) -> None:
    """Put a decoder of RUN into a copy of its SAM checkpoint.

    The result loads strictly with segment-anything's sam_model_registry.
    """
    from lungfast.errors import UsageError
    from lungfast.studies.export import export

    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists", fix="choose another -o, or give --overwrite")
    done = export(run, checkpoint, output, decoder=decoder)
    click.echo(f"{done.path}: decoder {done.decoder} of {run}; {done.caution}")
