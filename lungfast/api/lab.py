"""A cache opened once, and its studies: a configuration in, the content of results.json out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

from lungfast.compute import parse_memory, resolve_device
from lungfast.data.datasets import list_set
from lungfast.errors import UsageError
from lungfast.records import PromptKind
from lungfast.studies.baseline import BaselineConfig, baseline
from lungfast.studies.curve import CurveConfig, learning_curves
from lungfast.studies.cv import CvConfig, cross_validate
from lungfast.studies.fitting import Listener, Settings
from lungfast.studies.grid import GridConfig, grid
from lungfast.studies.jitter import PIXELS, JitterConfig, box_jitter
from lungfast.studies.judged import require_uncalibrated
from lungfast.studies.meeting import Site
from lungfast.studies.models import FinishedRun
from lungfast.studies.quality import QualityConfig, calibrate
from lungfast.studies.recipe_cv import recipe_cv
from lungfast.studies.recipes import training_recipe
from lungfast.studies.rescoring import identity
from lungfast.studies.robustness import RobustnessConfig, Sources, most_asking, opened_by_name, robustness
from lungfast.studies.session import Quiet, Request, ScoreBody, ScoreSettings, run_scoring, run_study
from lungfast.studies.thresholds import RescanConfig, ThresholdsConfig, rescan, thresholds
from lungfast.studies.transfer import config_of, site_names, transfer
from lungfast.studies.unet import UnetStudyConfig, run_unet, unet_settings
from lungfast.studies.workspace import Workspace
from lungfast.trained.trainer import TrainConfig

_TRAINING: dict[type, tuple[str, Callable[..., dict[str, Any]]]] = {
    CvConfig: ("cv", cross_validate),
    GridConfig: ("grid", grid),
    CurveConfig: ("train", learning_curves),
    ThresholdsConfig: ("thresholds", thresholds),
}


_BESIDE_TRAINING = {"views", "test_views", "high_res", "save_logits", "thresholds", "choose_among"}
"""Fields of Settings that are given like those of TrainConfig."""


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

        ``training`` are fields of TrainConfig (``batch_size``, ``schedule``, ``keep``, …), and ``views``,
        ``test_views``, ``high_res``, ``save_logits``, ``thresholds`` (scanned) and ``choose_among``.
        UsageError for a field of neither, or a configuration of no study here; whatever the study raises.
        """
        others = {name: training.pop(name) for name in _BESIDE_TRAINING & set(training)}
        if fixed := {"precision", "compile"} & set(training):
            raise UsageError(
                "this is set for the whole Lab", found=", ".join(fixed), fix="Lab(…, precision=…)"
            )
        if unknown := set(training) - (known := {one.name for one in fields(TrainConfig)}):
            expected = ", ".join(sorted(known | _BESIDE_TRAINING))
            raise UsageError("no setting has this name", found=", ".join(sorted(unknown)), expected=expected)
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
            **others,
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
        keys: Sequence[str] = ("points",),
        resume: bool = False,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """The decoders of this set on another's images and the reverse, unchanged.

        ``runs`` are finished cv runs of this cache and of the other, ``keys`` the rows whose decoders travel.
        """
        labs = (self, other)
        names = site_names(self.workspace, other.workspace)
        a, b = (
            Site(name=name, workspace=lab.workspace, run=FinishedRun.open(Path(run)))
            for name, lab, run in zip(names, labs, runs, strict=True)
        )
        config = config_of(a, b, keys)
        body = transfer(config, a, b, self._memory_bytes // 2, self._listener)
        return self._scored("transfer", config, body, _where(output, resume=resume, overwrite=overwrite))

    def quality(
        self,
        run: str | Path,
        *,
        others: Mapping[str, Lab] | None = None,
        overwrite: bool = False,
        **config: Any,
    ) -> dict[str, Any]:
        """Where ``predict`` flags a mask of this run, and how well: written into the run as quality.json.

        ``config`` are QualityConfig's fields: ``key``, ``perturbed`` (test images to spoil; 0 for none).
        $LUNGFAST_WEIGHTS names the checkpoint for those. UsageError where the run is calibrated already and
        ``overwrite`` is not given.
        """
        finished = FinishedRun.open(Path(run))
        if not overwrite:
            require_uncalibrated(finished)
        return calibrate(
            finished,
            self.workspace,
            QualityConfig(**config),
            others={name: lab.workspace for name, lab in (others or {}).items()},
            checkpoint=None,
            memory_bytes=self._memory_bytes,
            listener=self._listener,
        )

    def robustness(
        self,
        runs: Sequence[str | Path],
        source: tuple[str, str | Path],
        output: str | Path,
        *,
        masks: str | Path | None = None,
        images: int = 40,
        resume: bool = False,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """F1 of finished runs on perturbed films; ``source`` and ``masks`` as ``embed`` was given them.

        ``source`` is ("montgomery", DIR), ("shenzhen", DIR), ("kaggle", DIR) or ("pairs", DIR); ``images``:
        test images, at most. $LUNGFAST_WEIGHTS names the checkpoint of a SAM encoder.
        """
        opened = opened_by_name([Path(run) for run in runs])
        name, folder = source
        sources = Sources.of(
            most_asking(opened.values()),
            list_set(name, Path(folder), None if masks is None else Path(masks)),
            device=self.workspace.device,
            listener=self._listener,
            overwrite=overwrite,
        )
        config = RobustnessConfig.of(opened, images=images)
        body = robustness(config, opened, self.workspace, sources, self._memory_bytes)
        where = _where(output, resume=resume, overwrite=overwrite)
        return self._scored("robustness", config, body, where)

    def _scored(self, study: str, config: Any, body: ScoreBody, where: dict[str, Any]) -> dict[str, Any]:
        scoring = ScoreSettings(memory_bytes=self._memory_bytes)
        return run_scoring(
            Request(study=study, config=config, settings=scoring, **where), self.workspace, body
        )


def _where(output: str | Path, *, resume: bool, overwrite: bool) -> dict[str, Any]:
    return {"output": Path(output), "resume": resume, "overwrite": overwrite}
