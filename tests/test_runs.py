"""A run folder is created, resumed or replaced, never overwritten silently."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from lungfast.errors import LungfastError, RunError, UsageError
from lungfast.runs import RunFolder, open_run, provenance, read_tensors, results

QUESTION = {"study": "grid", "settings": {"epochs": 3, "lr": [1e-3]}}
OTHER = {"study": "grid", "settings": {"epochs": 4, "lr": [1e-3]}}


def test_an_existing_run_needs_resume_or_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with open_run(path, QUESTION):
        pass
    with (
        pytest.raises(UsageError, match=r"unfinished run.*--resume or --overwrite"),
        open_run(path, QUESTION),
    ):
        pass
    with open_run(path, QUESTION, resume=True) as run:
        run.write_results({"rows": []})
        assert run.complete
    with pytest.raises(UsageError, match="a complete run"), open_run(path, QUESTION):
        pass
    with open_run(path, QUESTION, overwrite=True) as run:
        assert not run.complete


def test_resume_refuses_another_question_and_names_the_field(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", QUESTION):
        pass
    other = {"study": "grid", "settings": {"epochs": 4, "lr": [1e-3]}}
    with (
        pytest.raises(RunError, match="epochs differs; found 3 then, 4 now"),
        open_run(tmp_path / "run", other, resume=True),
    ):
        pass


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    (tmp_path / "run.json").write_text("{}")
    for flags in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(UsageError, match="not a run folder"), open_run(tmp_path, QUESTION, **flags):
            pass
    assert (tmp_path / "thesis.tex").exists()


def test_both_flags_exclude_each_other(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="exclude each other"),
        open_run(tmp_path / "r", QUESTION, resume=True, overwrite=True),
    ):
        pass


def test_a_second_writer_is_kept_out(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with (
        open_run(path, QUESTION),
        pytest.raises(LungfastError, match="pid"),
        open_run(path, QUESTION, resume=True),
    ):
        pass


def test_tensors_notes_rows_and_logits_come_back(tmp_path: Path) -> None:
    import h5py

    state = {"a.weight": torch.arange(6.0).reshape(2, 3)}
    with open_run(tmp_path / "run", QUESTION) as run:
        run.write_tensors(run.decoder_path("k"), state, {"best_epoch": 2, "loss": [0.1, None]})
        tensors, notes = read_tensors(run.decoder_path("k"))
        torch.testing.assert_close(tensors["a.weight"], state["a.weight"])
        assert notes == {"best_epoch": 2, "loss": [0.1, None]}
        run.write_rows("t.csv", [{"a": 0.1, "b": "x,y"}])
        assert (run.path / "t.csv").read_text() == 'a,b\n0.1,"x,y"\n'
        for value in (1.0, 2.0):
            with run.logits_file("val") as file:
                file.put("k", "image-1", np.full((2, 2), value, np.float32))
        with h5py.File(run.path / "logits-val.h5") as file:
            np.testing.assert_array_equal(file["k/image-1"], np.full((2, 2), 2.0))


def test_a_checkpoint_replaces_the_one_before_and_goes_with_the_results(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", QUESTION) as run:
        assert run.read_checkpoint("part") is None
        for epoch in (1, 2):
            tensors = [{"x": torch.full((2,), float(epoch * k))} for k in range(2)]
            run.write_checkpoint("part", {"epoch": epoch, "status": ["running"] * 2}, tensors)
        found = run.read_checkpoint("part")
        assert found is not None
        assert found[0]["epoch"] == 2
        assert [flat["x"].tolist() for flat in found[1]] == [[0.0, 0.0], [2.0, 2.0]]
        assert len(list((run.path / "checkpoints" / "part").iterdir())) == 3
        run.write_results({"rows": []})
        assert run.read_checkpoint("part") is None


def test_overwrite_removes_a_runs_files_and_no_others(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", QUESTION) as run:
        run.write_rows("per_image.csv", [{"a": 1}])
        (run.path / "notes.txt").write_text("mine")
        (run.path / ".results.json.99.tmp").write_text("a killed write")
    with open_run(tmp_path / "run", QUESTION, overwrite=True) as run:
        assert sorted(path.name for path in run.path.iterdir()) == [".lock", "notes.txt", "run.json"]


def test_overwrite_removes_a_studys_own_files_before_their_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_run(tmp_path / "run", QUESTION, folders=("masks",)) as run:
        (run.path / "masks").mkdir()
        (run.path / "masks" / "a.png").write_text("of the old question")
        (run.path / "masks" / ".b.png.99.tmp").write_text("a killed write")
        run.write_results({"rows": []})
    with open_run(tmp_path / "run", QUESTION, resume=True, folders=("masks",)) as run:
        assert [path.name for path in (run.path / "masks").iterdir()] == ["a.png"]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "write", killed)
    with (
        pytest.raises(KeyboardInterrupt),
        open_run(tmp_path / "run", OTHER, overwrite=True, folders=("masks",)),
    ):
        pass
    assert not (tmp_path / "run" / "masks").exists()


def test_a_killed_start_does_not_block_the_next(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").write_text("99")
    with open_run(tmp_path / "run", QUESTION) as run:
        assert not run.complete


def test_logits_of_a_killed_scoring_are_not_in_the_way(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", QUESTION) as run:
        (run.path / ".logits-val.h5.tmp").write_bytes(b"half")
        with pytest.raises(KeyError), run.logits_file("val"):
            raise KeyError
        assert not list(run.path.glob("*logits*"))


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    with pytest.raises(RunError, match="cannot read"):
        read_tensors(tmp_path / "x.safetensors")


def test_results_have_their_frame() -> None:
    content = results("cv", [{"f1": 1}], provenance("cpu", seed=0))
    assert set(content) == {"schema", "study", "rows", "provenance"}
    assert {"torch", "lungfast"} <= set(content["provenance"]["versions"])
    assert content["provenance"]["seed"] == 0


def test_other_folds_than_at_the_start_are_refused(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", QUESTION) as run:
        run.write_once("splits.json", {"splits": [["a"], ["b"]]})
        run.write_once("splits.json", {"splits": [["a"], ["b"]]})
        with pytest.raises(RunError, match=r"splits\.json would differ"):
            run.write_once("splits.json", {"splits": [["b"], ["a"]]})
