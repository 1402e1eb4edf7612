"""What becomes of F1 when films are turned, moved, cut, badly exposed, noisy, compressed or of another depth?

Comes in: finished runs of the same encoder and data, the sources of their images, the encoder. Goes out: F1
of each run under each perturbation, every image judged by the decoders that had it as a test image. Perturbed
films are made from the source files at native size and embedded into caches of their own, which stay in the
run's folder; all runs are scored on the very same ones, so that they can be compared image by image.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lungfast.data.perturbations import ROBUSTNESS, Perturbation, PerturbedRef
from lungfast.data.views import ViewConfig
from lungfast.errors import DataError, UsageError
from lungfast.frozen.encoders import Encoder
from lungfast.records import Float64, Int64, Listing, SampleRef
from lungfast.runs import RunFolder, results
from lungfast.scored.scores import per_image_summary
from lungfast.studies.averaging import views_of_cache
from lungfast.studies.embed import EmbedConfig, embed
from lungfast.studies.ensemble import run_encoder
from lungfast.studies.fitting import Listener
from lungfast.studies.models import FinishedRun, Model
from lungfast.studies.rescoring import identity, n_scored, rescore, tell_fewer_views
from lungfast.studies.session import ScoreBody
from lungfast.studies.summaries import LOW_PERCENTILE, per_image
from lungfast.studies.workspace import Workspace

AS_IT_IS = "as it is"
CACHES = "perturbed"


@dataclass(frozen=True, kw_only=True)
class RobustnessConfig:
    """Which runs, by the hashes of their results; ``images``: test images, at most, evenly out of all."""

    runs: tuple[str, ...]
    results_sha256: tuple[str, ...]
    images: int = 40
    perturbations: tuple[str, ...] = tuple(one.name for one in ROBUSTNESS)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.images < 1:
            raise UsageError("images to test", found=str(self.images), expected="at least 1")

    @classmethod
    def of(cls, runs: Mapping[str, FinishedRun], *, images: int) -> RobustnessConfig:
        """The question for opened runs."""
        return cls(
            runs=tuple(str(one.path) for one in runs.values()),
            results_sha256=tuple(map(identity, runs.values())),
            images=images,
        )


def most_asking(runs: Iterable[FinishedRun]) -> FinishedRun:
    """Of runs that are judged together the one whose cache, and whose encoder, can serve them all."""
    return max(runs, key=lambda run: (run.reads_high_res, run.test_views))


@dataclass(frozen=True, kw_only=True, eq=False)
class Sources:
    """Where films come from, what embeds them, and the listener that is told."""

    listing: Listing
    encoder: Encoder
    batch_size: int
    listener: Listener
    overwrite: bool = False
    """Perturbed caches of an earlier run are made again."""

    @classmethod
    def of(
        cls,
        run: FinishedRun,
        listing: Listing,
        *,
        device: torch.device,
        listener: Listener,
        checkpoint: Path | None = None,
        overwrite: bool = False,
    ) -> Sources:
        """With the encoder that made the run's embeddings; raises what :func:`run_encoder` raises."""
        encoder = run_encoder(run, checkpoint, device=device)
        return cls(
            listing=listing,
            encoder=encoder,
            batch_size=encoder.usual_batch,
            listener=listener,
            overwrite=overwrite,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """One run under test: its preferred decoders, and the ids of the test images of each fold."""

    name: str
    models: tuple[Model, ...]
    tests: Mapping[str, frozenset[str]]
    patients: Mapping[str, str]
    """By the id of an image."""

    @classmethod
    def of(cls, name: str, run: FinishedRun, home: Workspace) -> Subject:
        """Of the row that the run prefers."""
        models = run.models()
        records = home.cache.images
        tests = {
            split.name: frozenset(records[int(i)].id for i in split.test) for split in run.splits(records)
        }
        return cls(name=name, models=models, tests=tests, patients={one.id: one.patient for one in records})


def robustness(
    config: RobustnessConfig,
    runs: Mapping[str, FinishedRun],
    home: Workspace,
    sources: Sources,
    memory_bytes: int,
) -> ScoreBody:
    """The body of the study. RunError for runs of another encoder or of other images, DataError where the
    sources lack the images."""
    for run in runs.values():
        run.check_encoder(home.cache)
        run.check_images(home.cache)
    subjects = [Subject.of(name, run, home) for name, run in runs.items()]
    refs = _some(sources.listing, subjects, config.images)
    memory_bytes //= 2  # films as they are, and spoilt in one way

    def body(folder: RunFolder, made_with: dict[str, Any]) -> dict[str, Any]:
        chosen = [one for one in ROBUSTNESS if one.name in config.perturbations]
        kept = {ref.id for ref in refs}
        for subject in subjects:
            tell_fewer_views(subject.models, home, sources.listener.note)
        views = max(subject.models[0].views_in(home) for subject in subjects)
        plain = [_judge(subject, home, kept, memory_bytes, sources.listener) for subject in subjects]
        rows = [_row(one, AS_IT_IS, f1, f1, config.seed) for one, f1 in zip(subjects, plain, strict=True)]
        for change in chosen:
            url = _embedded(change, refs, home, sources, folder.path / CACHES, views=views)
            spoilt = Workspace(url, device=home.device)
            for subject, before in zip(subjects, plain, strict=True):
                after = _judge(subject, spoilt, kept, memory_bytes, sources.listener)
                rows.append(_row(subject, change.name, after, before, config.seed))
        content = results("robustness", rows, made_with)
        folder.write_results(content)
        return content

    return body


def _some(listing: Listing, subjects: Sequence[Subject], n: int) -> list[SampleRef]:
    """So many of the images that every run tests, evenly out of all."""
    tested = frozenset.intersection(*(frozenset().union(*one.tests.values()) for one in subjects))
    refs = [ref for ref in listing.refs if ref.id in tested]
    if not refs:
        raise DataError(
            "the sources hold none of the images that the runs tested",
            found=f"{len(listing.refs)} others",
            expected="the folder that the runs' cache was embedded from",
        )
    places = np.linspace(0, len(refs) - 1, min(n, len(refs))).round().astype(int)
    return [refs[i] for i in sorted(set(places.tolist()))]


def _embedded(
    change: Perturbation,
    refs: Sequence[SampleRef],
    home: Workspace,
    sources: Sources,
    folder: Path,
    *,
    views: int,
) -> str:
    """The cache of the perturbed films, made or gone on with; as the runs' cache in dtype and views."""
    name = "".join(c if c.isalnum() else "-" for c in change.name)
    url = str(folder / f"{name}.zarr")
    listing = Listing(refs=tuple(PerturbedRef(ref=ref, perturbation=change) for ref in refs))
    config = EmbedConfig(
        url=url,
        dtype=home.cache.fingerprint.dtype,
        views=views,
        altered=views_of_cache(home.cache) if views > 1 else ViewConfig(),
        batch_size=sources.batch_size,
        pixels=False,
        overwrite=sources.overwrite,
    )
    sources.listener.note(change.name)
    report = embed(listing, sources.encoder, config, sources.listener)
    if report.skipped:
        raise DataError("a film that was tested cannot be read any more", found=report.skipped[0])
    return url


def _judge(
    subject: Subject, where: Workspace, kept: set[str], memory_bytes: int, listener: Listener
) -> dict[str, float]:
    """F1 by image id, each by the decoders of its own test fold."""
    place = {record.id: i for i, record in enumerate(where.cache.images)}
    images_of: dict[str, Int64] = {
        fold: np.array(sorted(place[one] for one in ids & kept), np.int64)
        for fold, ids in subject.tests.items()
    }
    models = [model for model in subject.models if images_of[model.fold].size]
    listener.phase(f"scoring {subject.name}", n_scored(models, images_of))
    found = per_image(rescore(models, where, images_of, memory_bytes, advance=listener.advance))
    ids = [where.cache.images[int(image)].id for image in found.images]
    return dict(zip(ids, found.values["f1"].tolist(), strict=True))


def _row(
    subject: Subject, name: str, after: Mapping[str, float], before: Mapping[str, float], seed: int
) -> dict[str, Any]:
    f1_N: Float64 = np.array([after[one] for one in before])
    change_N = f1_N - np.array(list(before.values()))
    patients = [subject.patients[one] for one in before]
    return {
        "key": f"{subject.name}: {name}",
        "run": subject.name,
        "perturbation": name,
        "prompt": subject.models[0].prompt.kind,
        "needs_ground_truth": subject.models[0].prompt.is_oracle,
        "f1_image": asdict(per_image_summary(f1_N, patients, seed=seed)),
        "f1_p05": float(np.percentile(f1_N, LOW_PERCENTILE)),
        "change": asdict(per_image_summary(change_N, patients, seed=seed)),
    }


def opened_by_name(paths: Sequence[Path]) -> dict[str, FinishedRun]:
    """Finished runs by their folders' names; UsageError where two are the same."""
    if not paths:
        raise UsageError("no run to test", expected="the folder of a finished run, or several")
    names = [path.name for path in paths]
    if len(set(names)) != len(names):
        raise UsageError("two runs have the same name", found=", ".join(names), fix="rename a folder")
    return dict(zip(names, map(FinishedRun.open, paths), strict=True))
