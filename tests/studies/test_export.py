"""A run's decoder in a full SAM checkpoint: strict loading, the rest unchanged, the wrong base refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from segment_anything import sam_model_registry

from lungfast.errors import CheckpointError, UsageError
from lungfast.files import file_sha256, write_json
from lungfast.runs import RunFolder
from lungfast.studies.export import export
from lungfast.studies.models import FinishedRun


def run_of(folder: Path, sam: Any, sha256: str) -> Path:
    """A grid's folder with one decoder, every trained value moved by one."""
    run = RunFolder(folder, {})
    folder.mkdir()
    moved = {f"mask_decoder.{name}": tensor + 1 for name, tensor in sam.mask_decoder.state_dict().items()}
    run.write_tensors(run.decoder_path("winner"), moved, {})
    write_json(folder / "run.json", {"study": "grid", "settings": {}})
    write_json(
        folder / "results.json",
        {
            "schema": 1,
            "study": "grid",
            "rows": [],
            "best": {"decoder": "winner", "prompt": "points", "val_f1": 0.9, "needs_ground_truth": False},
            "provenance": {"cache": {"encoder": {"name": "vit_b", "weights_sha256": sha256}}},
        },
    )
    return folder


def test_the_export_is_a_strict_sam_with_the_runs_decoder(
    vit_b: Any, vit_b_file: Path, tmp_path: Path
) -> None:
    run = run_of(tmp_path / "run", vit_b, file_sha256(vit_b_file))
    out = tmp_path / "out.pth"
    done = export(run, vit_b_file, out)
    assert done.decoder == "winner"
    assert "not validated" in done.caution
    loaded = sam_model_registry["vit_b"](checkpoint=str(out)).state_dict()
    for name, tensor in vit_b.state_dict().items():
        expected = tensor + 1 if name.startswith("mask_decoder.") else tensor
        assert torch.equal(loaded[name], expected), name
    out.unlink()


def test_another_base_is_refused(vit_b: Any, vit_b_file: Path, tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", vit_b, "0" * 64)
    with pytest.raises(CheckpointError, match="did not make this run's embeddings"):
        export(run, vit_b_file, tmp_path / "out.pth")
    with pytest.raises(UsageError, match="winner"):
        export(run, vit_b_file, tmp_path / "out.pth", decoder="loser")
    assert not (tmp_path / "out.pth").exists()


def test_cv_gives_the_best_fold_of_a_prompt_that_needs_no_ground_truth() -> None:
    def row(key: str, **folds: float) -> dict[str, Any]:
        oracle = key == "box"
        decoders = [{"decoder": k, "val_f1": v, "needs_ground_truth": oracle} for k, v in folds.items()]
        return {"key": key, "status": "done", "needs_ground_truth": oracle, "per_fold": decoders}

    rows = [row("box", c=0.99), row("points", a=0.9, b=0.95), row("box-auto") | {"status": "diverged"}]
    assert FinishedRun(Path("run"), {"rows": rows, "study": "cv"}).best_decoder() == "b"
