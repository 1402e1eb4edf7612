"""How far can the quality flag be trusted? Calibrated on validation images, tried on others.

Comes in: a finished run and its cache, other caches, the encoder for perturbed images. Goes out: the cut
below which ``predict`` flags a mask, and the flag's recall and precision (bad: F1 < .90) on validation, test,
other caches and spoilt films. A test image is judged by its fold's decoder, which did not train on it, and by
a cut of its own that it did not decide (verdicts.py); another cache by the ensemble and the run's cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lungfast.data.perturbations import PERTURBATIONS, Perturbation
from lungfast.errors import UsageError
from lungfast.files import file_sha256, write_json
from lungfast.frozen.encoders import Encoder
from lungfast.frozen.mask_summary import summarise_mask
from lungfast.geometry import area_average, pack_mask
from lungfast.records import Bool, Float32, Int64, Split, UInt8
from lungfast.runs import ANSWER, SCHEMA, provenance
from lungfast.scored.kernels import count_image, threshold_edges
from lungfast.scored.quality import FALSE_ALARM, GOOD_F1, highest_cut
from lungfast.scored.scores import scores_of
from lungfast.studies.ahead import PassListener
from lungfast.studies.ensemble import Ensemble, available_encoder, mean_threshold
from lungfast.studies.judged import QUALITY
from lungfast.studies.models import FinishedRun
from lungfast.studies.rescoring import tell_fewer_views
from lungfast.studies.scoring import Candidate, Predictions, predictions, prepare, score
from lungfast.studies.session import cache_facts
from lungfast.studies.verdicts import TOGETHER, Judged, Verdict, verdict
from lungfast.studies.workspace import Workspace

RULE = (
    f"the largest cut that flags at most {FALSE_ALARM:.0%} of the validation images "
    f"with F1 of {GOOD_F1:.2f} or more"
)


@dataclass(frozen=True, kw_only=True)
class QualityConfig:
    """``key``: a row of the run's table, by default the preferred one.

    ``perturbed``: test images spoilt in each way, at most (0: none).
    """

    key: str | None = None
    perturbed: int = 100


def measure_quality(
    run: FinishedRun,
    workspace: Workspace,
    config: QualityConfig,
    *,
    others: Mapping[str, Workspace],
    encoder: Encoder | None,
    memory_bytes: int,
    listener: PassListener,
) -> dict[str, Any]:
    """The ``quality`` study; ``encoder`` None leaves the perturbed images out, with a note."""
    run.check_cache(workspace.cache)
    for other in others.values():
        run.check_encoder(other.cache)
    caches = 2 + len(others)  # beside the run's own and the others: one perturbed at a time
    study = _Study(run, workspace, config, memory_bytes // caches, listener)
    validation = study.own("validation", "val")
    cut = highest_cut(validation.quality_N, validation.f1_N)
    good_N = validation.f1_N >= GOOD_F1
    if not good_N.any():
        study.note(f"no validation image has F1 of {GOOD_F1:.2f}: every mask is flagged")
    cuts_K = validation.cuts_without(study.images("test"))
    for fold, one in zip(study.folds(), cuts_K, strict=True):
        if one == 1 and good_N.any():
            study.note(
                f"{fold}: no other validation image has F1 of {GOOD_F1:.2f}, all test images are flagged"
            )
    tested = study.own("test", "test")
    rows = [validation.row(cut), tested.row(cuts_K[tested.decoder_N])]
    rows += [study.elsewhere(f"transfer to {name}", other).row(cut) for name, other in others.items()]
    rows += [spoilt.row(cuts_K[spoilt.decoder_N]) for spoilt in study.perturbed(encoder)]
    return {
        "schema": SCHEMA,
        "study": "quality",
        "key": study.key,
        "prompt": study.models[0].prompt.kind,
        "views": study.models[0].views_in(workspace),
        "decoders": [model.key for model in run.models(study.key)],
        "run_sha256": file_sha256(run.path / ANSWER),
        "calibration": {
            "threshold": cut,
            "threshold_by_fold": dict(zip(study.folds(), cuts_K.tolist(), strict=True)),
            "rule": RULE,
            "n": len(good_N),
            "n_good": int(good_N.sum()),
            "false_alarm": float((validation.quality_N[good_N] < cut).mean()) if good_N.any() else None,
        },
        "rows": rows,
        "notes": study.notes,
        "provenance": provenance(
            str(workspace.device),
            cache=cache_facts(workspace),
            others={name: cache_facts(other) for name, other in others.items()},
            config=asdict(config),
            run=str(run.path),
        ),
    }


def calibrate(
    run: FinishedRun,
    workspace: Workspace,
    config: QualityConfig,
    *,
    others: Mapping[str, Workspace],
    checkpoint: Path | None,
    memory_bytes: int,
    listener: PassListener,
) -> dict[str, Any]:
    """Measure, and put the answer where ``predict`` looks for it: quality.json in the run.

    A SAM encoder without ``checkpoint`` is looked for in $LUNGFAST_WEIGHTS; without it perturbed images are
    left out.
    """
    run.check_cache(workspace.cache)
    encoder = available_encoder(run, checkpoint, device=workspace.device) if config.perturbed else None
    content = measure_quality(
        run,
        workspace,
        config,
        others=others,
        encoder=encoder,
        memory_bytes=memory_bytes,
        listener=listener,
    )
    write_json(run.path / QUALITY, content)
    return content


class _Study:
    """The decoders of one row and one seed, on the run's own cache."""

    def __init__(
        self,
        run: FinishedRun,
        workspace: Workspace,
        config: QualityConfig,
        memory_bytes: int,
        listener: PassListener,
    ) -> None:
        self.key = config.key or run.preferred_key()
        models = run.models(self.key)
        self.models = [model for model in models if model.seed == models[0].seed]
        self.notes: list[str] = []
        self._run, self._workspace, self._config = run, workspace, config
        self._memory_bytes, self._listener = memory_bytes, listener
        tell_fewer_views(self.models, workspace, self.note)
        self._splits: dict[str, Split] = {split.name: split for split in run.splits(workspace.cache.images)}

    def note(self, line: str) -> None:
        self.notes.append(line)
        self._listener.note(line)

    def folds(self) -> list[str]:
        """Of the decoders, in their order."""
        return [model.fold for model in self.models]

    def images(self, part: str) -> list[Int64]:
        """The validation or test images of each decoder's fold."""
        return [getattr(self._splits[fold], part) for fold in self.folds()]

    def own(self, on: str, part: str) -> Judged:
        """Each fold's decoder on its own validation or test images."""
        images_K = self.images(part)
        thresholds = sorted({model.threshold for model in self.models})
        verdicts: dict[tuple[int, int], Verdict] = {}
        self._listener.phase(f"judging {part}", sum(len(images) for images in images_K))
        logits = self._judging(self._candidates(self._workspace, images_K), verdicts)
        scored = score(self._workspace, logits, images_K, thresholds, advance=self._listener.advance)
        f1_K = [
            one.at("f1", thresholds.index(model.threshold))
            for one, model in zip(scored, self.models, strict=True)
        ]
        films = _films(images_K)
        return Judged.of(on, [verdicts[film] for film in films], np.concatenate(f1_K), films)

    def _judging(
        self, candidates: Sequence[Candidate], verdicts: dict[tuple[int, int], Verdict]
    ) -> Predictions:
        """Logits of the run's own images; notes the verdict on each."""
        width = prepare(self._workspace, self._memory_bytes, len(candidates), views=candidates[0].views)
        for k, image, logits_hw in predictions(self._workspace, candidates, width=width):
            threshold, frame = self.models[k].threshold, self._workspace.cache.frame(image)
            verdicts[k, image] = verdict([logits_hw], [threshold], frame)
            yield k, image, logits_hw

    def elsewhere(self, on: str, other: Workspace) -> Judged:
        """The ensemble on another cache, without images that the run's cache has too."""
        known = {record.content_sha256 for record in self._workspace.cache.images}
        images = np.array(
            [i for i, record in enumerate(other.cache.images) if record.content_sha256 not in known], np.int64
        )
        if not images.size:
            raise UsageError(f"{other.cache.url} has no image that {self._workspace.cache.url} lacks")
        self._listener.phase(on, len(images))
        tell_fewer_views(self.models, other, self.note)
        prepare(other, self._memory_bytes, len(self.models), views=self.models[0].views_in(other))
        verdicts: dict[int, Verdict] = {}
        means = self._means(other, images, verdicts)
        threshold = mean_threshold([model.threshold for model in self.models])
        f1 = {image: float(scores_of(counts).f1_Q[0]) for _, image, counts in other.count(means, [threshold])}
        order = images.tolist()
        films = [(TOGETHER, image) for image in order]
        return Judged.of(on, [verdicts[image] for image in order], [f1[image] for image in order], films)

    def _means(self, other: Workspace, images: Int64, verdicts: dict[int, Verdict]) -> Predictions:
        """(0, image, mean logits), as soon as all decoders have seen an image; notes the verdict."""
        thresholds = [model.threshold for model in self.models]
        candidates = self._candidates(other, [images] * len(self.models))
        waiting: dict[int, list[Float32]] = {}
        # side by side, not in parts: all decoders see a batch before the next one comes
        for _, image, logits_hw in predictions(other, candidates, width=len(candidates)):
            seen = waiting.setdefault(image, [])
            seen.append(logits_hw)
            if len(seen) == len(candidates):
                del waiting[image]
                verdicts[image] = verdict(seen, thresholds, other.cache.frame(image))
                self._listener.advance()
                yield 0, image, np.mean(seen, axis=0, dtype=np.float32)

    def perturbed(self, encoder: Encoder | None) -> list[Judged]:
        """Each fold's decoder on some of its test images, spoilt in every way."""
        has_pixels = self._workspace.cache.has_pixels
        if not self._config.perturbed:
            return []
        if encoder is None or not has_pixels:
            lacking = "the encoder's weights" if has_pixels else "previews in the cache"
            self.note(f"perturbed images were not tried: that takes {lacking}")
            return []
        prompt = self.models[0].prompt
        ensemble = Ensemble(self.models, encoder, prompt=prompt, like=self._run.fingerprint)
        films = self._some_films()
        self._listener.phase("perturbed images", len(films) * len(PERTURBATIONS))
        return [self._spoilt(change, films, ensemble) for change in PERTURBATIONS]

    def _some_films(self) -> list[tuple[int, int]]:
        """(decoder, image), evenly out of all test images."""
        films = _films(self.images("test"))
        n = min(len(films), self._config.perturbed)
        return [films[i] for i in np.linspace(0, len(films) - 1, n).round().astype(int)]

    def _spoilt(self, change: Perturbation, films: Sequence[tuple[int, int]], ensemble: Ensemble) -> Judged:
        verdicts, f1 = [], []
        for k, image in films:
            image_HW, truth_HW = change.apply(*self._film(image), seed=image)
            boxes_S4 = summarise_mask({"lungs": truth_HW}).boxes_S4
            name = self._workspace.cache.images[image].id
            logits_hw = ensemble.logits([image_HW], [boxes_S4], ids=[name], members=[k])[0, 0]
            frame, threshold = ensemble.frame(image_HW), self.models[k].threshold
            verdicts.append(verdict([logits_hw], [threshold], frame))
            counts = count_image(logits_hw, frame, pack_mask(truth_HW), threshold_edges([threshold]))
            f1.append(float(scores_of(counts).f1_Q[0]))
            self._listener.advance()
        return Judged.of(change.name, verdicts, f1, films)

    def _film(self, image: int) -> tuple[UInt8, Bool]:
        """The preview without its padding, and the truth at its size."""
        cache = self._workspace.cache
        image_HW = cache.picture(image)
        truth_HW = np.asarray(area_average(cache.mask(image), image_HW.shape) > 0.5)
        return image_HW, truth_HW

    def _candidates(self, workspace: Workspace, images_K: Sequence[Int64]) -> list[Candidate]:
        return [m.candidate(workspace, images) for m, images in zip(self.models, images_K, strict=True)]


def _films(images_K: Sequence[Int64]) -> list[tuple[int, int]]:
    """(decoder, image) of each decoder's images."""
    return [(k, int(image)) for k, images in enumerate(images_K) for image in images]
