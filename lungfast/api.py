"""The studies from Python: a cache opened once, a configuration in, the content of results.json out.

The configurations are those of the studies themselves::

    lab = Lab("m.zarr")
    found = lab.run(CvConfig(prompts=prompts("points", "box"), lrs=(1e-3,)), "runs/cv", epochs=60)
    found["rows"][0]["f1"]["mean"]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from lungfast.compute import parse_memory, resolve_device
from lungfast.errors import UsageError
from lungfast.frozen.prompts import PromptConfig
from lungfast.records import PromptKind
from lungfast.report.writing import write_report
from lungfast.studies.baseline import BaselineConfig, baseline
from lungfast.studies.curve import CurveConfig, learning_curves
from lungfast.studies.cv import CvConfig, cross_validate
from lungfast.studies.fitting import Listener, Settings
from lungfast.studies.grid import GridConfig, grid
from lungfast.studies.models import FinishedRun
from lungfast.studies.predict import Request as PredictRequest
from lungfast.studies.predict import predict as _predict
from lungfast.studies.reading import read_material
from lungfast.studies.reproduce import paper_on
from lungfast.studies.reproduce import reproduce as _reproduce
from lungfast.studies.session import Quiet, Request, ScoreSettings, run_scoring, run_study
from lungfast.studies.steps import Order
from lungfast.studies.thresholds import ThresholdsConfig, thresholds
from lungfast.studies.workspace import Workspace
from lungfast.trained.trainer import TrainConfig

__all__ = [
    "BaselineConfig",
    "CurveConfig",
    "CvConfig",
    "FinishedRun",
    "GridConfig",
    "Lab",
    "PromptConfig",
    "ThresholdsConfig",
    "predict",
    "prompts",
    "report",
    "reproduce",
]

_TRAINING: dict[type, tuple[str, Callable[..., dict[str, Any]]]] = {
    CvConfig: ("cv", cross_validate),
    GridConfig: ("grid", grid),
    CurveConfig: ("train", learning_curves),
    ThresholdsConfig: ("thresholds", thresholds),
}


class Lab:
    """A cache opened for studies; ``device`` and ``memory`` as the commands' options."""

    def __init__(
        self,
        cache: str,
        *,
        device: str = "auto",
        memory: str = "auto",
        precision: str = "auto",
        compile: str = "auto",
        listener: Listener | None = None,
    ) -> None:
        self.workspace = Workspace(cache, device=resolve_device(device))
        self._memory_bytes = parse_memory(memory)
        self._precision, self._compile = precision, compile
        self._listener = listener or Quiet()

    def run(
        self,
        config: Any,
        output: str | Path,
        *,
        epochs: int = 60,
        resume: bool = False,
        overwrite: bool = False,
        **training: Any,
    ) -> dict[str, Any]:
        """Run the study that ``config`` belongs to into the folder ``output``.

        ``training`` are fields of TrainConfig (``batch_size``, ``schedule``, ``keep``, …). UsageError for a
        configuration of no study here; whatever the study raises.
        """
        if fixed := {"precision", "compile"} & set(training):
            raise UsageError(
                "this is set for the whole Lab", found=", ".join(fixed), fix="Lab(…, precision=…)"
            )
        where = {"output": Path(output), "resume": resume, "overwrite": overwrite}
        if isinstance(config, BaselineConfig):
            scoring = ScoreSettings(memory_bytes=self._memory_bytes)
            request = Request(study="baseline", config=config, settings=scoring, **where)  # type: ignore[arg-type]
            body = baseline(config, self.workspace, self._memory_bytes, self._listener)
            return run_scoring(request, self.workspace, body)
        if type(config) not in _TRAINING:
            raise UsageError(
                "no study takes this configuration",
                found=type(config).__name__,
                expected=", ".join(one.__name__ for one in (*_TRAINING, BaselineConfig)),
            )
        study, body_of = _TRAINING[type(config)]
        settings = Settings(
            train=TrainConfig(epochs=epochs, **training),
            memory_bytes=self._memory_bytes,
            precision=self._precision,
            compile=self._compile,
        )
        request = Request(study=study, config=config, settings=settings, **where)  # type: ignore[arg-type]
        return run_study(request, self.workspace, partial(body_of, config), self._listener)


def prompts(*kinds: PromptKind, **more: Any) -> tuple[PromptConfig, ...]:
    """Prompts by name, all with the same further fields of PromptConfig."""
    return tuple(PromptConfig(kind=kind, **more) for kind in kinds)


def reproduce(
    caches: Mapping[str, str],
    output: str | Path,
    *,
    quick: bool = False,
    epochs: Mapping[str, int] | None = None,
    device: str = "auto",
    resume: bool = False,
) -> dict[str, Any]:
    """Every table and figure of the paper from one or two caches by name, as ``lungfast reproduce``."""
    workspaces, recipe = paper_on(caches, device=resolve_device(device), epochs=epochs, quick=quick)
    order = Order(output=Path(output), recipe=recipe, memory_bytes=parse_memory("auto"), resume=resume)
    return _reproduce(order, workspaces, Quiet())


def predict(
    run: str | Path, images: Sequence[str | Path], output: str | Path, *, device: str = "auto", **more: Any
) -> dict[str, Any]:
    """Masks of images (files or folders) by a finished run; ``more``: fields of its request, as ``boxes``."""
    request = PredictRequest(run=Path(run), images=tuple(map(Path, images)), output=Path(output), **more)
    return _predict(request, device=resolve_device(device), listener=Quiet())


def report(folder: str | Path, out: str | Path | None = None) -> list[Path]:
    """Write the report of a finished run, or of a reproduction, into ``out`` or its own folder."""
    return write_report(read_material(Path(folder)), Path(out or folder))
