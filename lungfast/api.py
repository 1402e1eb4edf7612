"""The studies from Python: a cache opened once, a configuration in, the content of results.json out.

The configurations are those of the studies themselves::

    lab = Lab("m.zarr")
    found = lab.run(CvConfig(prompts=prompts("points", "box"), lrs=(1e-3,)), "runs/cv", epochs=60)
    found["rows"][0]["f1"]["mean"]
    lab.transfer(Lab("s.zarr"), ("runs/cv", "runs/cv-s"), "runs/transfer")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
from lungfast.studies.ensemble import available_encoder
from lungfast.studies.fitting import Listener, Settings
from lungfast.studies.grid import GridConfig, grid
from lungfast.studies.jitter import PIXELS, JitterConfig, box_jitter
from lungfast.studies.models import FinishedRun
from lungfast.studies.on_request import Extras
from lungfast.studies.predict import Request as PredictRequest
from lungfast.studies.predict import predict as _predict
from lungfast.studies.quality import QualityConfig, measure_quality, write_quality
from lungfast.studies.reading import read_material
from lungfast.studies.recipe_cv import recipe_cv
from lungfast.studies.recipes import training_recipe
from lungfast.studies.reproduce import paper_on
from lungfast.studies.reproduce import reproduce as _reproduce
from lungfast.studies.rescoring import identity
from lungfast.studies.session import Quiet, Request, ScoreBody, ScoreSettings, run_scoring, run_study
from lungfast.studies.steps import Order
from lungfast.studies.thresholds import RescanConfig, ThresholdsConfig, rescan, thresholds
from lungfast.studies.transfer import Site, config_of, site_names, transfer
from lungfast.studies.unet import UnetStudyConfig, run_unet, unet_settings
from lungfast.studies.workspace import Workspace
from lungfast.trained.trainer import TrainConfig
from lungfast.trained.unet import UnetConfig

__all__ = [
    "BaselineConfig",
    "CurveConfig",
    "CvConfig",
    "Extras",
    "FinishedRun",
    "GridConfig",
    "Lab",
    "PromptConfig",
    "ThresholdsConfig",
    "UnetConfig",
    "UnetStudyConfig",
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
        save_logits: bool = False,
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
        where = _where(output, resume=resume, overwrite=overwrite)
        if isinstance(config, BaselineConfig):
            body = baseline(config, self.workspace, self._memory_bytes, self._listener)
            return self._scored("baseline", config, body, where)
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
            save_logits=save_logits,
        )
        request = Request(study=study, config=config, settings=settings, **where)
        return run_study(request, self.workspace, partial(body_of, config), self._listener)

    def cross_validate(
        self,
        output: str | Path,
        *,
        recipe: str = "best",
        kinds: Sequence[PromptKind] = ("points",),
        folds: int = 5,
        epochs: int | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """``lungfast cv --recipe``: every fold as the recipe says; ``epochs`` None: its own budget."""
        chosen, cache = training_recipe(recipe), self.workspace.cache
        config = recipe_cv(chosen, cache, kinds=kinds, folds=folds)
        more = {} if epochs is None else {"epochs": epochs}
        settings = chosen.settings_for(
            cache,
            folds,
            memory_bytes=self._memory_bytes,
            precision=self._precision,
            compile=self._compile,
            **more,
        )
        where = _where(output, resume=resume, overwrite=overwrite)
        request = Request(study="cv", config=config, settings=settings, **where)
        return run_study(request, self.workspace, partial(cross_validate, config), self._listener)

    def unet(
        self,
        output: str | Path,
        config: UnetStudyConfig | None = None,
        *,
        against: str | Path | None = None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """A U-Net on the folds; ``against`` is a finished cv run to pair it with, image by image."""
        config = config or UnetStudyConfig()
        settings = unet_settings(config.model, memory_bytes=self._memory_bytes, precision=self._precision)
        where = _where(output, resume=resume, overwrite=overwrite)
        request = Request(study="unet", config=config, settings=settings, **where)
        rival = None if against is None else Path(against)
        return run_unet(request, self.workspace, self._listener, against=rival)

    def jitter(
        self,
        run: str | Path,
        output: str | Path,
        *,
        pixels: Sequence[int] = PIXELS,
        resume: bool = False,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """Test F1 of a cv run's decoders whose boxes are moved by up to ``pixels`` of a 1024-pixel frame."""
        finished = FinishedRun.open(Path(run))
        config = JitterConfig(run=str(run), results_sha256=identity(finished), pixels=tuple(pixels))
        body = box_jitter(config, finished, self.workspace, self._memory_bytes, self._listener)
        return self._scored("jitter", config, body, _where(output, resume=resume, overwrite=overwrite))

    def rescan(
        self, run: str | Path, output: str | Path, *, resume: bool = False, overwrite: bool = False
    ) -> dict[str, Any]:
        """F1 over thresholds from the logits that a run has stored (``save_logits``), without training."""
        finished = FinishedRun.open(Path(run))
        config = RescanConfig(run=str(run), results_sha256=identity(finished))
        body = rescan(finished, self.workspace, self._listener)
        return self._scored("thresholds", config, body, _where(output, resume=resume, overwrite=overwrite))

    def transfer(
        self,
        other: Lab,
        runs: tuple[str | Path, str | Path],
        output: str | Path,
        *,
        key: str = "points",
        resume: bool = False,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """The decoders of this set on another's images and the reverse, unchanged.

        ``runs`` are finished cv runs of this cache and of the other, ``key`` the row whose decoders travel.
        """
        labs = (self, other)
        names = site_names(self.workspace, other.workspace)
        a, b = (
            Site(name=name, workspace=lab.workspace, run=FinishedRun.open(Path(run)), key=key)
            for name, lab, run in zip(names, labs, runs, strict=True)
        )
        config = config_of(a, b)
        body = transfer(config, a, b, self._memory_bytes // 2, self._listener)
        return self._scored("transfer", config, body, _where(output, resume=resume, overwrite=overwrite))

    def quality(
        self, run: str | Path, *, others: Mapping[str, Lab] | None = None, **config: Any
    ) -> dict[str, Any]:
        """Where ``predict`` flags a mask of this run, and how well: written into the run as quality.json.

        ``config`` are QualityConfig's fields: ``key``, ``perturbed`` (test images to spoil; 0 for none).
        $LUNGFAST_WEIGHTS names the checkpoint for those.
        """
        finished, asked, device = FinishedRun.open(Path(run)), QualityConfig(**config), self.workspace.device
        content = measure_quality(
            finished,
            self.workspace,
            asked,
            others={name: lab.workspace for name, lab in (others or {}).items()},
            encoder=available_encoder(finished, None, device=device) if asked.perturbed else None,
            memory_bytes=self._memory_bytes,
            listener=self._listener,
        )
        write_quality(finished, content)
        return content

    def _scored(self, study: str, config: Any, body: ScoreBody, where: dict[str, Any]) -> dict[str, Any]:
        scoring = ScoreSettings(memory_bytes=self._memory_bytes)
        return run_scoring(
            Request(study=study, config=config, settings=scoring, **where), self.workspace, body
        )


def _where(output: str | Path, *, resume: bool, overwrite: bool) -> dict[str, Any]:
    return {"output": Path(output), "resume": resume, "overwrite": overwrite}


def prompts(*kinds: PromptKind, **more: Any) -> tuple[PromptConfig, ...]:
    """Prompts by name, all with the same further fields of PromptConfig."""
    return tuple(PromptConfig(kind=kind, **more) for kind in kinds)


def reproduce(
    caches: Mapping[str, str],
    output: str | Path,
    *,
    quick: bool = False,
    epochs: Mapping[str, int] | None = None,
    seeds: int = 1,
    best: bool = False,
    device: str = "auto",
    **more: Any,
) -> dict[str, Any]:
    """Every table and figure of the paper from one or two caches by name, as ``lungfast reproduce``.

    ``more``: fields of its order, as ``resume``, ``overwrite``, ``checkpoint``, ``memory_bytes``.
    """
    workspaces, recipe = paper_on(
        caches, device=resolve_device(device), epochs=epochs, quick=quick, seeds=seeds
    )
    recipe = replace(recipe, best=best)
    more = {"memory_bytes": parse_memory("auto")} | more
    order = Order(output=Path(output), recipe=recipe, **more)
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
