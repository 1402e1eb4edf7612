"""What the results of a set were made with, as names and values for the page. Results in, pairs out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lungfast.report import facts
from lungfast.report.material import Material
from lungfast.report.table import listed


def provenance_of(material: Material, set_name: str) -> list[tuple[str, str]]:
    """Data, weights, protocol, versions, hardware; what is not known is left out."""
    found = next((content for _, content in facts.contents(material, set_name)), {})
    made = found.get("provenance", {})
    pairs = [*_data(made), *_encoder(material, set_name), *_protocol(made), *_machine(made)]
    epochs = (material.recipe.get("epochs") or {}).get(set_name)
    if epochs:
        pairs.append(("Recipe", f"{material.recipe.get('name', '')}, {epochs} epochs"))
    pairs += [(f"Pace, {study}", _pace(content)) for study, content in facts.contents(material, set_name)]
    pairs.append(("Studies", listed([name for name, _ in facts.contents(material, set_name)])))
    return [(name, value) for name, value in pairs if value]


def provenance_of_transfer(material: Material) -> list[tuple[str, str]]:
    """Protocol and machine of a transfer, whose two caches are those of its sets."""
    made = (material.transfer or {}).get("provenance", {})
    told = [("Encoder", one.sentence) for one in facts.encoders(material)[:1]] if made else []
    return [(name, value) for name, value in [*told, *_protocol(made), *_machine(made)] if value]


def _pace(content: Mapping[str, Any]) -> str:
    """Of a study's largest stack; empty where it trained nothing or is of an earlier version."""
    found = max(content.get("pace") or (), key=lambda one: int(one["decoders"]), default=None)
    if found is None:
        return ""
    return (
        f"{found['decoders']} at once, {found['ms_a_step']:.0f} ms a step (with validation), "
        f"{found['ms_a_decoder_and_image']:.1f} ms a decoder and image, peak memory "
        f"{found['peak_memory_mb']} MB"
    )


def _data(made: Mapping[str, Any]) -> list[tuple[str, str]]:
    cache = made.get("cache", {})
    fingerprint = cache.get("fingerprint", {})
    images = cache.get("images")
    stored = fingerprint.get("dtype")
    return [
        ("Cache", str(cache.get("url", "")).rstrip("/").rsplit("/", 1)[-1]),
        ("Images", f"{images}" if images else ""),
        ("Data, sha256", str(fingerprint.get("data_sha256") or "")),
        ("Features", f"{stored}" if stored else ""),
    ]


def _encoder(material: Material, set_name: str) -> list[tuple[str, str]]:
    encoder = facts.encoder(material, set_name)
    if encoder is None:
        return []
    return [("Encoder", encoder.sentence), ("Weights, sha256", encoder.weights_sha256)]


def _protocol(made: Mapping[str, Any]) -> list[tuple[str, str]]:
    config, settings, training = (made.get(name, {}) for name in ("config", "settings", "training"))
    train = settings.get("train", {})
    scores = made.get("scores", {})
    return [
        ("Folds", _joined(config, ("folds", "split_seed", "seeds", "seed"))),
        ("Training", _joined(train, ("epochs", "batch_size", "schedule", "keep", "patience", "val_every"))),
        ("Arithmetic", _joined(training, ("precision", "compile", "width"))),
        ("Scores", _joined(scores, ("size", "empty_masks", "interval"))),
    ]


def _machine(made: Mapping[str, Any]) -> list[tuple[str, str]]:
    hardware = made.get("hardware", {})
    names = {"cpu": "", "cores": "cores", "memory_gib": "GiB", "device": "device", "system": ""}
    parts = [f"{hardware[key]} {unit}".strip() for key, unit in names.items() if hardware.get(key)]
    versions = [f"{name} {version}" for name, version in made.get("versions", {}).items()]
    return [("Hardware", ", ".join(parts)), ("Versions", ", ".join(versions))]


def _joined(values: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    """``epochs 100, batch size 8``, of those that are there."""
    return ", ".join(
        f"{key.replace('_', ' ')} {_text(values[key])}" for key in keys if values.get(key) is not None
    )


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(_text, value)) if isinstance(value, list | tuple) else str(value)
