"""What made a cache: every setting that decides its numbers, to be compared with another's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from lungfast.errors import CacheError, UsageError
from lungfast.frozen.stored_features import DTYPES
from lungfast.records import EncoderSpec, ResizeRule

FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """Everything that decides a cache's numbers. ``data_sha256`` is known once the cache is complete."""

    encoder: str
    weights_sha256: str
    input_size: int
    resize: ResizeRule
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    dtype: str
    """As stored: ``float16``, ``float32`` or ``int8`` (stored_features.py)."""
    compute_dtype: str
    device_class: str
    """``cpu`` or ``cuda``."""
    views: int = 1
    """Rows an image: the unaltered view and altered ones."""
    view_settings: str = ""
    """How the altered views were made; empty where there are none."""
    dataset_listing: str = ""
    """Of the dataset as it was listed: file names and sizes, patients, labels, spacing."""
    format: int = FORMAT
    data_sha256: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UsageError("--dtype is unknown", found=self.dtype, expected=" or ".join(DTYPES))

    @classmethod
    def of(cls, spec: EncoderSpec, *, dtype: str, compute_dtype: str, device_class: str) -> Fingerprint:
        return cls(
            encoder=spec.name,
            weights_sha256=spec.weights_sha256,
            input_size=spec.input_size,
            resize=spec.resize,
            pixel_mean=spec.pixel_mean,
            pixel_std=spec.pixel_std,
            dtype=dtype,
            compute_dtype=compute_dtype,
            device_class=device_class,
        )

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Fingerprint:
        found = content["format"]
        if found != FORMAT:
            fix = "update lungfast, or run embed again with --overwrite"
            raise CacheError("the cache has another format", found=str(found), expected=str(FORMAT), fix=fix)
        return cls(**tuples(content))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def difference(self, other: Fingerprint) -> str:
        """The first field that differs, with both values; empty where none does.

        ``data_sha256`` is compared only where both know it.
        """
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine != theirs and not (field.name == "data_sha256" and None in {mine, theirs}):
                if field.name == "dataset_listing":  # two hashes
                    return "other images, masks or patients than it was made from"
                return f"{field.name} {mine!r} against {theirs!r}"
        return ""


def tuples(value: Any) -> Any:
    """JSON has lists where the dataclasses have tuples."""
    if isinstance(value, list):
        return tuple(tuples(item) for item in value)
    if isinstance(value, Mapping):
        return {key: tuples(item) for key, item in value.items()}
    return value
