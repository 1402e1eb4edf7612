"""One study from request to results: the run folder opened, the question written, the body run.

Comes in: an opened :class:`Workspace` and a :class:`Request`. Goes out: the content of results.json, of
this run or of the complete one that is resumed. Commands, the Python interface and ``reproduce`` all use it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lungfast.compute import resolve_precision
from lungfast.data.splits import make_folds
from lungfast.records import EpochEnd, Split
from lungfast.runs import ANSWER, RunFolder, open_run, provenance
from lungfast.scored.scores import DEFAULT_EMPTY
from lungfast.studies.fitting import Listener, Settings
from lungfast.studies.protocol import Study
from lungfast.studies.workspace import Workspace, stack_width


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """What a study that trains nothing is told."""

    memory_bytes: int


@dataclass(frozen=True, kw_only=True)
class Request:
    """A study's name, its configuration (a dataclass), the settings, and where its run goes."""

    study: str
    config: Any
    settings: Settings | ScoreSettings
    output: Path
    resume: bool = False
    overwrite: bool = False


Body = Callable[[Study, tuple[Split, ...], dict[str, Any]], dict[str, Any]]
ScoreBody = Callable[[RunFolder, dict[str, Any]], dict[str, Any]]


class Quiet:
    """A listener that shows nothing; its notes are kept."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, line: str) -> None:
        self.notes.append(line)

    def phase(self, name: str, total: int) -> None:
        pass

    def advance(self, n: int = 1) -> None:
        pass

    def epoch(self, end: EpochEnd) -> None:
        pass


def run_study(request: Request, workspace: Workspace, body: Body, listener: Listener) -> dict[str, Any]:
    """Run a study that trains; see :func:`run_scoring`."""
    settings = request.settings
    if not isinstance(settings, Settings):
        raise TypeError(f"{request.study} trains: it needs Settings, not {type(settings).__name__}")
    resolve_precision(settings.precision, workspace.device)
    workspace.check_views(settings.views, settings.test_views)
    workspace.check_high_res(asked=settings.high_res)
    splits = make_folds(workspace.cache.images, request.config.folds, seed=request.config.split_seed)

    def run_body(run: RunFolder, facts: dict[str, Any]) -> dict[str, Any]:
        return body(Study(workspace, run, settings, listener), splits, facts)

    return run_scoring(request, workspace, run_body)


def run_scoring(
    request: Request, workspace: Workspace, body: ScoreBody, *, parts: Sequence[str] = ()
) -> dict[str, Any]:
    """Run ``body`` in the run folder; a complete run that is resumed is just read back.

    ``parts`` are folders of runs inside it, which go with it when it is overwritten.
    Whatever can be refused is refused before the folder is made: a corrected request must not find it there.
    """
    stack_width(request.settings.memory_bytes, 1, workspace.device)
    question = question_of(request, workspace)
    with open_run(
        request.output, question, resume=request.resume, overwrite=request.overwrite, parts=parts
    ) as run:
        if run.complete:
            return dict(run.read(ANSWER))
        return body(run, made_with(request, workspace))


def question_of(request: Request, workspace: Workspace) -> dict[str, Any]:
    """What decides the answer; the memory bound does not (the width it allows is kept in the run)."""
    return {
        "study": request.study,
        "config": asdict(request.config),
        "settings": _as_before(asked(request.settings)),
        "cache": asdict(workspace.cache.fingerprint),
        "device": workspace.device.type,
    }


def asked(settings: Settings | ScoreSettings) -> dict[str, Any]:
    """The settings that a result depends on; precision and compilation as asked, not as chosen."""
    content = asdict(settings)
    del content["memory_bytes"]
    if isinstance(settings, Settings):
        del content["train"]["precision"], content["train"]["compile"]
        for name, before in (("test_views", 1), ("high_res", False)):
            if content[name] == before:  # as runs asked before there was a choice
                del content[name]
    return content


def _as_before(settings: dict[str, Any]) -> dict[str, Any]:
    """The recipe's text without what no recipe told before there were high-resolution features."""
    if settings.get("recipe"):
        for told in (", but high_res False", ", high_res False"):
            settings["recipe"] = settings["recipe"].removesuffix(told)
    return settings


def made_with(request: Request, workspace: Workspace) -> dict[str, Any]:
    """Provenance: versions, hardware, the cache, the study's configuration with its seeds, the protocol."""
    return provenance(
        str(workspace.device),
        cache=cache_facts(workspace),
        config=asdict(request.config),
        settings=asked(request.settings),
        scores={
            "size": "native",
            "empty_masks": DEFAULT_EMPTY.name,
            "interval": "95 % percentile bootstrap over patients, 10,000 draws",
        },
    )


def cache_facts(workspace: Workspace) -> dict[str, Any]:
    """Which cache, of which encoder, with how many images, and of which sets."""
    cache = workspace.cache
    return {
        "url": cache.url,
        "encoder": asdict(cache.spec),
        "fingerprint": asdict(cache.fingerprint),
        "images": len(cache.images),
        "sources": sorted({record.source for record in cache.images}),
    }
