"""A trained decoder put back into a full SAM checkpoint that ``sam_model_registry`` loads strictly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lungfast.errors import CheckpointError, RunError, UsageError
from lungfast.files import file_sha256
from lungfast.frozen.checkpoints import export_checkpoint
from lungfast.studies.accounts import decoder_state
from lungfast.studies.models import FinishedRun

UNVALIDATED = "multimask output and predicted IoU are not validated: the transformer they share has moved"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, from which decoder."""

    path: Path
    decoder: str
    caution: str = UNVALIDATED


def export(run: Path, checkpoint: Path, out: Path, *, decoder: str | None = None) -> Exported:
    """Write ``checkpoint`` with the run's decoder to ``out``.

    ``decoder`` is a key of the run's decoders; by default the grid's winner, or the fold with the highest
    validation F1. Raises RunError for a run made with ``nano`` (there is no SAM checkpoint to put it into),
    CheckpointError where ``checkpoint`` is not the one that made the embeddings.
    """
    finished = FinishedRun.open(run)
    key = decoder or finished.best_decoder()
    path = run / "decoders" / f"{key}.safetensors"
    if not path.exists():
        known = ", ".join(sorted(file.stem for file in (run / "decoders").glob("*.safetensors")))
        raise UsageError("--decoder is not in this run", found=key, expected=known or "no decoder at all")
    encoder = finished.encoder
    if not encoder["name"].startswith("vit_"):
        raise RunError(
            f"{run} was trained on {encoder['name']} embeddings, which no SAM checkpoint belongs to",
            found=encoder["name"],
            expected="a run on a vit_b, vit_l or vit_h cache",
            fix="embed with --checkpoint first; the decoder itself is " + str(path),
        )
    if checkpoint.is_file() and (found := file_sha256(checkpoint)) != encoder["weights_sha256"]:
        raise CheckpointError(
            f"{checkpoint} did not make this run's embeddings",
            found=f"sha256 {found[:12]}…",
            expected=f"{encoder['name']} with sha256 {encoder['weights_sha256'][:12]}…",
        )
    export_checkpoint(checkpoint, decoder_state(path), out)
    return Exported(path=out, decoder=key)
