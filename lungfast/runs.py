"""A run's folder: what was asked, what came out, and everything needed to go on after a kill.

    runs/grid/
      run.json          the question: study, settings, cache, versions, hardware; written first
      splits.json       image ids of every split          prompts.json   the priors of every fold
      results.json      the answer; written last: a run is complete when it is there
      per_image.csv     one line per scored image         history.csv    losses by epoch
      decoders/         one safetensors file per decoder, segment-anything's names
      checkpoints/      only while training
      timing.json       seconds; kept apart so that results of a resumed run are the same bytes

Every file is written atomically. A lock with the holder's pid keeps a second writer out.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungfast import __version__
from lungfast.compute import hardware
from lungfast.errors import LungfastError, RunError, UsageError
from lungfast.files import locked, write_atomic, write_json
from lungfast.records import Float32

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1
QUESTION, ANSWER = "run.json", "results.json"
PACKAGES = ("torch", "segment-anything", "monai", "zarr", "numpy", "numba", "safetensors", "scikit-learn")


class RunFolder:
    """One run; made by :func:`open_run`, which holds its lock."""

    def __init__(self, path: Path, question: Mapping[str, Any]) -> None:
        self.path, self.question = path, dict(question)

    @property
    def complete(self) -> bool:
        return (self.path / ANSWER).exists()

    def write(self, name: str, content: Any) -> None:
        """A JSON file; non-finite numbers must already be None."""
        write_json(self.path / name, content)

    def read(self, name: str) -> Any:
        return read_json(self.path / name)

    def write_rows(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A CSV file with the keys of the first row as header; floats with all their digits."""
        text = io.StringIO()
        if rows:
            table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        write_atomic(self.path / name, text.getvalue().encode())

    def write_results(self, content: Mapping[str, Any]) -> None:
        """The answer, last: it completes the run and removes the checkpoints."""
        self.write(ANSWER, content)
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    # --- decoders and checkpoints ---

    def decoder_path(self, key: str) -> Path:
        return self.path / "decoders" / f"{key}.safetensors"

    def write_decoder(self, key: str, state: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """segment-anything's names under ``mask_decoder.``; ``notes`` go into the file's metadata."""
        tensors = {f"mask_decoder.{name}": tensor for name, tensor in state.items()}
        self._write_tensors(self.decoder_path(key), tensors, notes)

    def write_checkpoint(self, name: str, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        self._write_tensors(self.path / "checkpoints" / f"{name}.safetensors", tensors, notes)

    def read_checkpoint(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest checkpoint of that name, or None where training has not got so far."""
        path = self.path / "checkpoints" / f"{name}.safetensors"
        return read_tensors(path) if path.exists() else None

    def drop_checkpoint(self, name: str) -> None:
        (self.path / "checkpoints" / f"{name}.safetensors").unlink(missing_ok=True)

    @contextmanager
    def logits_file(self) -> Iterator[LogitsFile]:
        """``logits.h5``, opened for adding."""
        import h5py

        with h5py.File(self.path / "logits.h5", "a") as file:
            yield LogitsFile(file)

    @staticmethod
    def _write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        from safetensors.torch import save

        path.parent.mkdir(exist_ok=True)
        header = {"notes": json.dumps(notes, allow_nan=False, sort_keys=True)}
        write_atomic(path, save({name: t.contiguous() for name, t in tensors.items()}, metadata=header))


class LogitsFile:
    """Low-resolution logits in HDF5: one dataset ``<decoder>/<image id>``, (h, w) float32, before sigmoid."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def put(self, key: str, image_id: str, logits_hw: Float32) -> None:
        """Store one image's logits, replacing those of an interrupted scoring."""
        group = self._file.require_group(key)
        if image_id in group:
            del group[image_id]
        group.create_dataset(image_id, data=logits_hw)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and notes of a safetensors file of this run."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            notes = json.loads((file.metadata() or {}).get("notes", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, notes  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise RunError(f"cannot read {path}", found=str(error), fix="run the study again") from error


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing", expected="a run folder of lungfast") from None
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}", found=str(error), fix="run the study again") from error


@contextmanager
def open_run(
    path: Path, question: Mapping[str, Any], *, resume: bool = False, overwrite: bool = False
) -> Iterator[RunFolder]:
    """Create, resume or replace a run folder and hold its lock.

    Raises UsageError where the folder is there and neither was asked for, RunError where a run to be
    resumed asked another question.
    """
    question = json.loads(json.dumps(question, allow_nan=False))
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other", fix="give one of them")
    if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not (path / QUESTION).exists())):
        raise UsageError(
            "-o is not a run folder", found=str(path), expected="a new folder", fix="choose another -o"
        )
    exists = (path / QUESTION).exists()
    if exists and not (resume or overwrite):
        raise UsageError(
            f"{path} holds a run already",
            found="a complete run" if (path / ANSWER).exists() else "an unfinished run",
            fix="choose another -o, or give --resume or --overwrite",
        )
    _make_folder(path)
    with locked(path / ".lock", f"the run {path}"):
        if exists and overwrite:
            _empty(path)
        elif exists:
            _same_question(read_json(path / QUESTION), question, path)
        run = RunFolder(path, question)
        if not (path / QUESTION).exists():
            run.write(QUESTION, question)
        yield run


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LungfastError(f"cannot make the folder {path}", found=error.strerror or str(error)) from error


def _empty(path: Path) -> None:
    for entry in path.iterdir():
        if entry.name == ".lock":
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _same_question(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    for field in sorted(set(old) | set(new)):
        if old.get(field) != new.get(field):
            before, now = old.get(field), new.get(field)
            if isinstance(before, dict) and isinstance(now, dict):
                _same_question(before, now, path)
            raise RunError(
                f"cannot resume {path}: {field} differs",
                found=f"{before!r} then, {now!r} now",
                fix="resume with the same settings, or choose another -o",
            )


def versions() -> dict[str, str]:
    """lungfast and the packages that decide numbers."""
    return {"lungfast": __version__} | {name: metadata.version(name) for name in PACKAGES}


def provenance(device: str, **more: Any) -> dict[str, Any]:
    """What a result was made with: versions, hardware, and whatever the study adds."""
    return {"versions": versions(), "hardware": hardware(device).as_dict(), **more}


def results(study: str, rows: Sequence[Mapping[str, Any]], made_with: Mapping[str, Any]) -> dict[str, Any]:
    """The frame of every results.json."""
    return {"schema": SCHEMA, "study": study, "rows": list(rows), "provenance": dict(made_with)}
