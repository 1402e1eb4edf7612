"""A run's folder: what was asked, what came out, and everything needed to go on after a kill.

    runs/grid/
      run.json          the question: study, settings, cache, versions, hardware; written first
      splits.json       image ids of every split          prompts.json   the priors of every fold
      results.json      the answer; written last: a run is complete when it is there
      per_image.csv     one line per scored image         history.csv    losses by epoch
      decoders/         one safetensors file per decoder: segment-anything's names, and SAM 2's conv_s1.weight
                        where it reads high-resolution features
      checkpoints/      only while training       logits-*.h5    with --save-logits
      chosen.json       precision, compilation, stack width: fixed before the first step
      pace.json         seconds a step and memory of every training
      masks.csv         with --surface or --clean: one line per test image and decoder

Every file is written atomically. A lock with the holder's pid keeps a second writer out.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungfast import __version__
from lungfast.compute import hardware
from lungfast.errors import RunError, UsageError
from lungfast.files import NAMES, disk_error, locked, write_atomic, write_json
from lungfast.records import Float32

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 2
QUESTION, ANSWER, NOTES, LOCK = "run.json", "results.json", "checkpoint.json", ".lock"
PACE = "pace.json"
OURS: tuple[str, ...] = (
    *(ANSWER, "*.csv", "logits*.h5", "splits.json", "prompts.json", "chosen.json", PACE, "decoders"),
    *("checkpoints", "quality.json", "timings.json", "left_out.json", "examples.*", "report.*", "tables.*"),
    *("nano.safetensors", "curves.svg", QUESTION),
)
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

    def write_once(self, name: str, content: Any) -> None:
        """As :meth:`write`; on a resume what is there must be the same, or decoders would meet other rows."""
        path = self.path / name
        if path.exists() and read_json(path) != json.loads(json.dumps(content)):
            raise RunError(
                f"cannot resume {self.path}: {name} would differ",
                found="other folds or patients than when it was started",
                fix="choose another -o, or --overwrite",
            )
        self.write(name, content)

    def read(self, name: str) -> Any:
        return read_json(self.path / name)

    def write_rows(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A CSV file with the keys of the first row as header; floats with all their digits."""
        text = io.StringIO()
        if rows:
            table = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
        write_atomic(self.path / name, text.getvalue().encode(errors=NAMES))

    def write_results(self, content: Mapping[str, Any]) -> None:
        """The answer, last: it completes the run and removes the checkpoints."""
        self.write(ANSWER, content)
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    # --- decoders and checkpoints ---

    def decoder_path(self, key: str) -> Path:
        return self.path / "decoders" / f"{key}.safetensors"

    @staticmethod
    def write_tensors(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """A safetensors file; ``notes`` go into its metadata as JSON."""
        from safetensors.torch import save

        header = {"notes": json.dumps(notes, allow_nan=False, sort_keys=True)}
        write_atomic(path, save({name: t.contiguous() for name, t in tensors.items()}, metadata=header))

    def _checkpoint(self, name: str) -> Path:
        return self.path / "checkpoints" / name

    def write_checkpoint(
        self, name: str, notes: Mapping[str, Any], tensors_K: Iterable[Mapping[str, Tensor]]
    ) -> None:
        """One file per decoder; ``notes`` (with its ``epoch``) last: it decides which files count."""
        folder, epoch = self._checkpoint(name), notes["epoch"]
        kept = set()
        for k, tensors in enumerate(tensors_K):
            path = folder / f"{epoch}-{k}.safetensors"
            self.write_tensors(path, tensors, {})
            kept.add(path)
        write_json(folder / NOTES, notes)
        for path in set(folder.glob("*.safetensors")) - kept:
            path.unlink()

    def read_checkpoint(self, name: str) -> tuple[dict[str, Any], Iterator[dict[str, Tensor]]] | None:
        """Notes and tensors of the newest checkpoint, or None where training has not got so far."""
        folder = self._checkpoint(name)
        if not (folder / NOTES).exists():
            return None
        notes = read_json(folder / NOTES)
        paths = [folder / f"{notes['epoch']}-{k}.safetensors" for k in range(len(notes["status"]))]
        return notes, (read_tensors(path)[0] for path in paths)

    def drop_checkpoint(self, name: str) -> None:
        shutil.rmtree(self._checkpoint(name), ignore_errors=True)

    @contextmanager
    def logits_file(self, part: str) -> Iterator[LogitsFile]:
        """``logits-PART.h5``, whole or absent."""
        import h5py

        path = self.path / f"logits-{part}.h5"
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with h5py.File(temporary, "w") as file:
                yield LogitsFile(file)
            temporary.replace(path)
        except (OSError, RuntimeError) as error:  # h5py says RuntimeError where the disk is full at close
            raise disk_error(path, error) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


class LogitsFile:
    """Low-resolution logits in HDF5: one dataset ``<decoder>/<image id>``, (h, w) float32, before sigmoid."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def put(self, key: str, image_id: str, logits_hw: Float32) -> None:
        self._file.require_group(key).create_dataset(image_id, data=logits_hw)


def read_tensors(
    path: Path, *, names: Sequence[str] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (all, or the named ones) and notes of a safetensors file of a run."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            notes = json.loads((file.metadata() or {}).get("notes", "{}"))
            wanted = file.keys() if names is None else names
            return {name: file.get_tensor(name) for name in wanted}, notes
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
    path: Path,
    question: Mapping[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    parts: Sequence[str] = (),
    folders: Sequence[str] = (),
) -> Iterator[RunFolder]:
    """Create, resume or replace a run folder and hold its lock; ``parts`` are folders of runs inside it,
    ``folders`` those of files that the study writes one by one.

    Raises UsageError where the folder is there and neither was asked for, or holds something else; RunError
    where a run to be resumed asked another question. ``overwrite`` removes a run's files and no others.
    """
    question = json.loads(json.dumps(question, allow_nan=False))
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other", fix="give one of them")
    _refuse_foreign(path)
    with locked(path / LOCK, f"the run {path}"):
        exists = (path / QUESTION).exists()
        if exists and not (resume or overwrite):
            raise UsageError(
                f"{path} holds a run already",
                found="a complete run" if (path / ANSWER).exists() else "an unfinished run",
                fix="choose another -o, or give --resume or --overwrite",
            )
        if exists and overwrite:
            _remove_parts(path, parts)
            _remove(path, (ANSWER, *folders))  # before the question that they answer
            _remove(path, OURS)
        elif exists:
            _same_question(read_json(path / QUESTION), question, path)
        _remove(path, [f"{name}.*.tmp" for name in ("", "decoders/", "checkpoints/*/")])
        _remove(path, [f"{name}/.*.tmp" for name in folders])
        run = RunFolder(path, question)
        if not (path / QUESTION).exists():
            run.write(QUESTION, question)
        yield run


def _refuse_foreign(path: Path) -> None:
    """A folder counts as a run by its run.json; without one it may hold a killed start's rests."""
    if not path.exists():
        return
    if path.is_dir():
        if (path / QUESTION).exists():
            asked = read_json(path / QUESTION)
            if isinstance(asked, dict) and {"study", "settings"} <= set(asked):
                return
        elif all(entry.name.startswith(".") for entry in path.iterdir()):
            return
    raise UsageError(
        "-o is not a run folder", found=str(path), expected="a new folder", fix="choose another -o"
    )


def _remove_parts(path: Path, names: Sequence[str]) -> None:
    """Runs inside this one, before its own question: a kill in between leaves no part of another question."""
    for name in names:
        for question in list((path / name).rglob(QUESTION)):
            shutil.rmtree(question.parent)


def _remove(path: Path, patterns: Sequence[str]) -> None:
    """Files and folders of these names; run.json last, so that a kill in between leaves a run."""
    for pattern in patterns:
        for entry in path.glob(pattern):
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink()


def _same_question(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    """RunError that names the first difference (the recipe's before what follows from it) and the others."""
    found = sorted(_differences(old, new), key=lambda one: not one[0].endswith(".recipe"))
    if found:
        (name, before, now), *more = found
        others = f"; also {', '.join(one[0].rpartition('.')[2] for one in more[:4])}" if more else ""
        raise RunError(
            f"cannot resume {path}: {name.rpartition('.')[2]} differs",
            found=f"{before!r} then, {now!r} now{others}",
            fix="resume with the same settings, or choose another -o",
        )


def _differences(old: Any, new: Any, name: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted name, before, now) of every value that differs; of lists, where they are as long."""
    if isinstance(old, dict) and isinstance(new, dict):
        for field in sorted(set(old) | set(new)):
            yield from _differences(old.get(field), new.get(field), f"{name}.{field}")
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (before, now) in enumerate(zip(old, new, strict=True)):
            yield from _differences(before, now, name if not isinstance(before, dict) else f"{name}.{i}")
    elif old != new:
        yield name.lstrip("."), old, new


def versions() -> dict[str, str]:
    """lungfast and the packages that decide numbers."""
    return {"lungfast": __version__} | {name: metadata.version(name) for name in PACKAGES}


def provenance(device: str, **more: Any) -> dict[str, Any]:
    """What a result was made with: versions, hardware, and whatever the study adds."""
    return {"versions": versions(), "hardware": hardware(device).as_dict(), **more}


def results(study: str, rows: Sequence[Mapping[str, Any]], made_with: Mapping[str, Any]) -> dict[str, Any]:
    """The frame of every results.json."""
    return {"schema": SCHEMA, "study": study, "rows": list(rows), "provenance": dict(made_with)}
