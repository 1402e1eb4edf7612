"""What needs no open cache: making one, prompts by name, the whole paper, masks and report of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lungfast.compute import parse_memory, resolve_device, resolve_encoder_precision
from lungfast.data.datasets import list_set
from lungfast.frozen.encoders import load_encoder
from lungfast.frozen.prompts import PromptConfig
from lungfast.records import PromptKind, ResizeRule
from lungfast.report.writing import write_report
from lungfast.studies.embed import EmbedConfig, EmbedReport
from lungfast.studies.embed import embed as _embed
from lungfast.studies.examples import complete_examples
from lungfast.studies.predict import Request as PredictRequest
from lungfast.studies.predict import predict as _predict
from lungfast.studies.reading import read_material
from lungfast.studies.reproduce import paper_on
from lungfast.studies.reproduce import reproduce as _reproduce
from lungfast.studies.session import Quiet
from lungfast.studies.steps import Order


def embed(
    source: tuple[str, str | Path],
    output: str | Path,
    *,
    masks: str | Path | None = None,
    meta: str | Path | None = None,
    checkpoint: str | Path | None = None,
    resize: ResizeRule = "longest",
    device: str = "auto",
    **more: Any,
) -> EmbedReport:
    """``lungfast embed``: one encoder pass over a set, into a cache; an unfinished one is gone on with.

    ``source`` is ("montgomery", DIR), ("shenzhen", DIR), ("kaggle", DIR) or ("pairs", DIR), ``masks`` and
    ``meta`` as the command's options; without ``checkpoint`` the encoder is nano. ``more``: ``high_res``
    keeps the features that nano has and the best recipe reads; fields of EmbedConfig, as
    ``views``, ``dtype``, ``overwrite``. Unreadable images are in the report's ``skipped``.
    """
    name, folder = source
    listing = list_set(name, Path(folder), *(None if one is None else Path(one) for one in (masks, meta)))
    chosen = resolve_device(device)
    encoder = load_encoder(
        None,
        checkpoint=None if checkpoint is None else Path(checkpoint),
        resize=resize,
        device=chosen,
        precision=resolve_encoder_precision("auto", chosen),
        high_res=more.pop("high_res", False),
    )
    batch_size = more.pop("batch_size", encoder.usual_batch)
    config = EmbedConfig(url=str(output), batch_size=batch_size, **more)
    return _embed(listing, encoder, config, Quiet())


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

    ``more``: ``unet_epochs``, and fields of its order, as ``resume``, ``overwrite``, ``checkpoint``,
    ``memory_bytes``.
    """
    workspaces, recipe = paper_on(
        caches,
        device=resolve_device(device),
        epochs=epochs,
        unet_epochs=more.pop("unet_epochs", None),
        quick=quick,
        seeds=seeds,
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


def report(folder: str | Path, out: str | Path | None = None, *, cache: str | None = None) -> list[Path]:
    """Write the report of a finished run, or of a reproduction, into ``out`` or its own folder.

    ``cache`` is where the cache of a cv run is, if it has moved: its masks are predicted from there, once.
    """
    complete_examples(Path(folder), cache=cache, note=lambda _: None)
    return write_report(read_material(Path(folder)), Path(out or folder))
