"""The studies of a reproduction in their order, each with its folder, its cost and how to run it.

Comes in: an :class:`Order` and opened caches. Goes out: :class:`Step` objects; later ones read the runs of
earlier ones. All of the paper's settings come from the recipe; decided here is only who reads whom.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lungfast.data.perturbations import PERTURBATIONS
from lungfast.frozen.encoders import decoder_origin
from lungfast.records import PromptKind
from lungfast.runs import ANSWER, read_json
from lungfast.studies.baseline import BaselineConfig, baseline
from lungfast.studies.curve import CurveConfig, learning_curves
from lungfast.studies.cv import CvConfig, cross_validate
from lungfast.studies.estimate import (
    ENCODED_SHARE,
    HIGH_RES_SHARE,
    SCORED_SHARE,
    STARTED_SECONDS,
    UNET_SHARE,
    VALIDATED_SHARE,
)
from lungfast.studies.examples import NOTES, write_examples
from lungfast.studies.fitting import Listener
from lungfast.studies.grid import GridConfig, grid
from lungfast.studies.jitter import JitterConfig, box_jitter
from lungfast.studies.judged import QUALITY
from lungfast.studies.meeting import Site
from lungfast.studies.models import FinishedRun
from lungfast.studies.on_request import Extras
from lungfast.studies.quality import QualityConfig, calibrate
from lungfast.studies.recipe_cv import recipe_cv
from lungfast.studies.recipes import BEST
from lungfast.studies.rescoring import identity
from lungfast.studies.session import Request, ScoreSettings, run_scoring, run_study
from lungfast.studies.transfer import config_of, transfer
from lungfast.studies.unet import UnetStudyConfig, run_unet, unet_settings
from lungfast.studies.whole_paper import Recipe
from lungfast.studies.workspace import Workspace

TRANSFER = "transfer"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One study of one set (or of both): where it stands, what it costs, how to run it.

    ``pairs``: training steps in (decoder, image) pairs, and what else it does in the same unit.
    """

    study: str
    set: str | None
    done: Path
    pairs: float
    act: Callable[[], object]

    def seconds(self, pace: float) -> float:
        """About how long it takes at so many seconds a pair."""
        return STARTED_SECONDS + self.pairs * pace

    @property
    def title(self) -> str:
        return f"{self.set}: {self.study}" if self.set else self.study

    @property
    def is_needed(self) -> bool:
        """Later steps and the report cannot do without it."""
        return self.study in {"grid", "baseline", "cv"}


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to reproduce, where, and under which bounds."""

    output: Path
    recipe: Recipe
    memory_bytes: int
    precision: str = "auto"
    compile_: str = "auto"
    checkpoint: Path | None = None
    resume: bool = False
    overwrite: bool = False


class Steps:
    """The studies in their order: later ones read the runs of earlier ones."""

    def __init__(self, order: Order, workspaces: Mapping[str, Workspace], listener: Listener) -> None:
        self._order, self._workspaces, self._listener = order, workspaces, listener
        self._recipe = order.recipe
        self._memory = order.memory_bytes // len(workspaces)

    def all(self) -> list[Step]:
        recipe, steps = self._recipe, [step for name in self._workspaces for step in self._of_set(name)]
        if len(self._workspaces) == 2:
            n_images = sum(len(one.cache.images) for one in self._workspaces.values())
            # of every prompt and seed: one decoder on its own set's fold, one on the other's, and all on all
            met = len(self._travelling()) * len(recipe.seeds) * (2 + recipe.folds)
            steps.append(self._step(TRANSFER, None, met * n_images * SCORED_SHARE))
        return steps + [self._quality_step(name) for name in self._workspaces]

    def _of_set(self, name: str) -> list[Step]:
        recipe, cache = self._recipe, self._workspaces[name].cache
        images, n_views = len(cache.images), cache.n_views
        n_train, n_val = images * (recipe.folds - 2) / recipe.folds, images / recipe.folds

        def trained(epochs: int, *, val_every: int = 1) -> float:
            return epochs * n_train + -(-epochs // val_every) * n_val * VALIDATED_SHARE

        rows = len(recipe.prompts) + len(recipe.losses) - 1
        decoders = rows * recipe.folds * len(recipe.seeds)
        scored = images * SCORED_SHARE
        steps = [
            self._step("grid", name, len(recipe.lrs) * len(recipe.wds) * trained(recipe.grid_epochs(name))),
            self._step("baseline", name, len(recipe.prompts) * scored * (2 + 2 * recipe.multimask)),
            self._step("cv", name, decoders * trained(recipe.epochs[name]) + 2 * rows * scored),
            self._step("jitter", name, 4 * len(recipe.jitter_px) * scored),
            self._step("unet", name, recipe.folds * recipe.unet_of(name).epochs * n_train * UNET_SHARE),
        ]
        if recipe.best:
            epochs = self._best_epochs(name) or BEST.epochs(int(n_train))
            seen = recipe.folds * BEST.seeds * trained(epochs, val_every=BEST.val_every)
            seen *= HIGH_RES_SHARE if cache.spec.has_high_res else 1
            steps.insert(3, self._step(BEST.name, name, seen + 2 * scored * min(BEST.test_views, n_views)))
        long = recipe.curve_epochs(name)
        if long is not None:
            steps.insert(3, self._step("train", name, len(recipe.curve_prompts) * trained(long)))
        done = self._run_of(name, "cv") / NOTES
        steps.append(Step(study="examples", set=name, done=done, pairs=10, act=partial(self._examples, name)))
        return steps

    def _step(self, study: str, name: str | None, pairs: float) -> Step:
        act = self._transfer if name is None else partial(getattr(self, f"_{study}"), name)
        return Step(study=study, set=name, done=self._run_of(name, study) / ANSWER, pairs=pairs, act=act)

    def _quality_step(self, name: str) -> Step:
        scored = 2 * len(self._workspaces[name].cache.images) * SCORED_SHARE
        spoilt = min(self._recipe.perturbed, len(self._workspaces[name].cache.images))
        pairs = scored + len(PERTURBATIONS) * spoilt * ENCODED_SHARE
        done = self._run_of(name, "cv") / QUALITY
        return Step(study="quality", set=name, done=done, pairs=pairs, act=partial(self._quality, name))

    def _run_of(self, name: str | None, study: str) -> Path:
        return self._order.output / study if name is None else self._order.output / name / study

    # --- one study each ---

    def _request(self, name: str, study: str, config: Any, *, epochs: int | None = None) -> Request:
        order = self._order
        settings = self._recipe.settings(
            epochs or self._recipe.epochs[name],
            self._memory,
            precision=order.precision,
            compile_=order.compile_,
        )
        output = self._run_of(name, study)
        return Request(study=study, config=config, settings=settings, output=output, resume=True)

    def _scoring_request(self, name: str | None, study: str, config: Any) -> Request:
        settings = ScoreSettings(memory_bytes=self._memory)
        output = self._run_of(name, study)
        return Request(study=study, config=config, settings=settings, output=output, resume=True)

    def _grid(self, name: str) -> None:
        recipe = self._recipe
        config = GridConfig(
            lrs=recipe.lrs,
            wds=recipe.wds,
            prompts=recipe.prompts[:1],
            folds=recipe.folds,
            split_seed=recipe.split_seed,
        )
        body = partial(grid, config)
        request = self._request(name, "grid", config, epochs=recipe.grid_epochs(name))
        run_study(request, self._workspaces[name], body, self._listener)

    def _chosen(self, name: str) -> tuple[float, float]:
        """Rate and decay: the paper's for SAM's decoder, the grid's winner for any other."""
        if decoder_origin(self._workspaces[name].cache.spec) == "sam":
            return self._recipe.preset
        best = read_json(self._run_of(name, "grid") / ANSWER)["best"]
        return best["lr"], best["wd"]

    def _baseline(self, name: str) -> None:
        recipe, workspace = self._recipe, self._workspaces[name]
        config = BaselineConfig(
            prompts=recipe.prompts,
            multimask=recipe.multimask,
            folds=recipe.folds,
            split_seed=recipe.split_seed,
        )
        body = baseline(config, workspace, self._memory, self._listener)
        run_scoring(self._scoring_request(name, "baseline", config), workspace, body)

    def _cv(self, name: str) -> None:
        recipe = self._recipe
        lr, wd = self._chosen(name)
        config = CvConfig(
            prompts=recipe.prompts,
            lrs=(lr,),
            wds=(wd,),
            losses=recipe.losses,
            compare_losses=(recipe.prompts[0].kind,),
            seeds=recipe.seeds,
            folds=recipe.folds,
            split_seed=recipe.split_seed,
            extras=Extras(surface=recipe.surface, clean=recipe.clean),
        )
        body = partial(cross_validate, config)
        run_study(self._request(name, "cv", config), self._workspaces[name], body, self._listener)

    def _best_epochs(self, name: str) -> int | None:
        """Those of the recipe where it is a first look; None: the best recipe's own budget."""
        return self._recipe.epochs[name] if self._recipe.is_quick else None

    def _best(self, name: str) -> None:
        recipe, workspace, epochs = self._recipe, self._workspaces[name], self._best_epochs(name)
        config = recipe_cv(BEST, workspace.cache, folds=recipe.folds, split_seed=recipe.split_seed)
        settings = BEST.settings_for(
            workspace.cache,
            recipe.folds,
            memory_bytes=self._memory,
            precision=self._order.precision,
            compile=self._order.compile_,
            **({} if epochs is None else {"epochs": epochs}),
        )
        output = self._run_of(name, BEST.name)
        request = Request(study="cv", config=config, settings=settings, output=output, resume=True)
        run_study(request, workspace, partial(cross_validate, config), self._listener)

    def _train(self, name: str) -> None:
        recipe = self._recipe
        lr, wd = self._chosen(name)
        config = CurveConfig(
            prompts=recipe.curve_prompts,
            lrs=(lr,),
            wds=(wd,),
            folds=recipe.folds,
            split_seed=recipe.split_seed,
        )
        request = self._request(name, "train", config, epochs=recipe.curve_epochs(name))
        body = partial(learning_curves, config)
        run_study(request, self._workspaces[name], body, self._listener)

    def _jitter(self, name: str) -> None:
        finished, workspace = self._cv_run(name), self._workspaces[name]
        config = JitterConfig(run="cv", results_sha256=identity(finished), pixels=self._recipe.jitter_px)
        body = box_jitter(config, finished, workspace, self._memory, self._listener)
        run_scoring(self._scoring_request(name, "jitter", config), workspace, body)

    def _unet(self, name: str) -> None:
        recipe, unet = self._recipe, self._recipe.unet_of(name)
        config = UnetStudyConfig(model=unet, folds=recipe.folds, split_seed=recipe.split_seed)
        settings = unet_settings(unet, memory_bytes=self._memory, precision=self._order.precision)
        request = replace(self._request(name, "unet", config), settings=settings)
        run_unet(request, self._workspaces[name], self._listener, against=self._run_of(name, "cv"))

    def _examples(self, name: str) -> None:
        write_examples(self._cv_run(name), self._workspaces[name], self._memory)

    def _transfer(self) -> None:
        a, b = (
            Site(name=name, workspace=one, run=self._cv_run(name)) for name, one in self._workspaces.items()
        )
        config = config_of(a, b, self._travelling())
        body = transfer(config, a, b, self._memory, self._listener)
        run_scoring(self._scoring_request(None, TRANSFER, config), a.workspace, body)

    def _travelling(self) -> list[PromptKind]:
        """Prompts whose decoders are tested on the other set."""
        return [one.kind for one in self._recipe.prompts if one.kind in self._recipe.travelling]

    def _quality(self, name: str) -> None:
        finished, workspace = self._cv_run(name), self._workspaces[name]
        calibrate(
            finished,
            workspace,
            QualityConfig(perturbed=self._recipe.perturbed),
            others={other: one for other, one in self._workspaces.items() if other != name},
            checkpoint=self._order.checkpoint,
            memory_bytes=self._memory,
            listener=self._listener,
        )

    def _cv_run(self, name: str) -> FinishedRun:
        return FinishedRun.open(self._run_of(name, "cv"))
