"""The decoders of a finished run, read back to be used: on another cache, on new images, under other prompts.

Comes in: a run folder that ``cv``, ``grid`` or ``train`` completed. Goes out: :class:`Model` objects with the
threshold, the prompt and the prior that belong to them, all from the rows that trained and validated them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lungfast.data.splits import splits_from_dict
from lungfast.errors import RunError, UsageError, taking_apart
from lungfast.frozen.cache import EmbeddingCache
from lungfast.frozen.priors import Prior
from lungfast.frozen.prompts import CachePrompts, PromptConfig, config_from_dict
from lungfast.records import ImageRecord, Int64, Split
from lungfast.runs import ANSWER, QUESTION, read_json
from lungfast.studies.accounts import decoder_state
from lungfast.studies.averaging import views_for
from lungfast.studies.scoring import Candidate
from lungfast.studies.workspace import Workspace

if TYPE_CHECKING:
    from torch import Tensor

WITH_DECODERS = {"cv", "grid", "train"}


@dataclass(frozen=True, kw_only=True)
class Model:
    """One trained decoder with all that using it takes; ``threshold`` is a probability."""

    key: str
    fold: str
    seed: int
    threshold: float
    prompt: PromptConfig
    prior: Prior
    path: Path
    n_train: int
    val_f1: float
    together: bool = False
    """It decides together with the other seeds of its fold."""
    views: int = 1
    """Views of an image over which its threshold was chosen, and its answer is averaged."""

    def state(self) -> dict[str, Tensor]:
        """Its weights under segment-anything's MaskDecoder names."""
        return decoder_state(self.path)

    def prompts(self, workspace: Workspace, prompt: PromptConfig | None = None) -> CachePrompts:
        """Its prompts for the images of any cache of the same encoder: its own prior, their frames."""
        return workspace.prompts_at(prompt or self.prompt, self.prior, seed=self.seed)

    def candidate(self, workspace: Workspace, images: Int64) -> Candidate:
        """It, to be scored on some images of a cache."""
        return Candidate(
            key=self.key,
            prompts=self.prompts(workspace),
            state=self.state,
            images=images,
            views=self.views_in(workspace),
        )

    def views_in(self, workspace: Workspace) -> int:
        """Those of its views that a cache holds of an image."""
        return min(self.views, workspace.cache.n_views)


class FinishedRun:
    """A complete run with decoders; made by :meth:`open`."""

    def __init__(self, path: Path, content: Mapping[str, Any]) -> None:
        self.path, self.content = path, content

    @classmethod
    def open(cls, path: Path) -> FinishedRun:
        """RunError where the folder is no run, is unfinished, or trained no decoders."""
        if not (path / QUESTION).exists():
            raise RunError(f"{path} is not a run of lungfast", expected="a folder of cv, grid or train")
        if not (path / ANSWER).exists():
            raise RunError(f"{path} is unfinished", fix="go on with the same command and --resume")
        content = read_json(path / ANSWER)
        if content.get("study") not in WITH_DECODERS or not (path / "decoders").is_dir():
            raise RunError(
                f"{path} holds no decoders", found=str(content.get("study")), expected="cv, grid, train"
            )
        return cls(path, content)

    @property
    def encoder(self) -> Mapping[str, Any]:
        """The EncoderSpec of its cache, as a dictionary."""
        return self.content["provenance"]["cache"]["encoder"]  # type: ignore[no-any-return]

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        """The Fingerprint of its cache, as a dictionary."""
        return self.content["provenance"]["cache"]["fingerprint"]  # type: ignore[no-any-return]

    @property
    def data_sha256(self) -> str:
        """The hash of its cache's pixels and masks."""
        return str(self.fingerprint["data_sha256"])

    @property
    def cache_url(self) -> str:
        """Where its cache was."""
        return str(self.content["provenance"]["cache"]["url"])

    @property
    def test_views(self) -> int:
        """Views of an image that its decoders' answers are averaged over."""
        return int(self.content["provenance"]["settings"].get("test_views", 1))

    @property
    def reads_high_res(self) -> bool:
        """Its decoders read high-resolution features beside the embeddings."""
        return bool(self.content["provenance"]["settings"].get("high_res", False))

    def check_encoder(self, cache: EmbeddingCache) -> None:
        """RunError where a cache's embeddings are not of the kind that the run's decoders know."""
        spec, made = cache.spec, self.encoder
        found, expected = (spec.name, spec.weights_sha256), (made["name"], made["weights_sha256"])
        if found != expected or spec.resize != made["resize"]:
            raise RunError(
                f"{cache.url} was made with another encoder than the cache of {self.path}",
                found=f"{found[0]} {found[1][:12]}…, {spec.resize}",
                expected=f"{expected[0]} {expected[1][:12]}…, {made['resize']}",
            )
        if self.reads_high_res and not spec.has_high_res:
            raise RunError(
                f"the decoders of {self.path} read high-resolution features, which {cache.url} does not hold",
                found=", ".join(spec.feature_maps),
                expected=", ".join(made["feature_maps"]),
                fix="embed with --high-res",
            )

    def check_cache(self, cache: EmbeddingCache) -> None:
        """RunError where this is not the cache that the run was trained on."""
        self.check_encoder(cache)
        self.check_images(cache)

    def check_images(self, cache: EmbeddingCache) -> None:
        """RunError where a cache holds other images or masks than the run's, whatever embedded them."""
        if cache.fingerprint.data_sha256 != self.data_sha256:
            raise RunError(
                f"{self.path} was not trained on {cache.url}",
                found="other images or masks",
                expected=self.cache_url,
                fix="give the cache of the run",
            )

    def splits(self, images: Sequence[ImageRecord]) -> tuple[Split, ...]:
        """Its splits as positions among these images (of its own cache)."""
        where = self.path / "splits.json"
        with taking_apart(where):
            return splits_from_dict(read_json(where), images)

    def models(self, key: str | None = None) -> tuple[Model, ...]:
        """The decoders of one row of its table (all folds and seeds), by default of :meth:`preferred_key`."""
        where = self.path / "prompts.json"
        with taking_apart(where):
            priors = read_json(where)
            return tuple(self._model(row, priors) for row in self._decoders(key or self.preferred_key()))

    def preferred_key(self) -> str:
        """The row that validation prefers: of those that need no ground truth where there are any."""
        rows = self.rows()
        if not rows:
            raise RunError(f"{self.path} has no usable decoder", found="every decoder diverged")
        return max(rows, key=lambda key: (not rows[key][0]["needs_ground_truth"], _mean_val(rows[key])))

    def best_decoder(self) -> str:
        """Of the preferred row the decoder with the highest validation F1."""
        decoders = self.rows()[self.preferred_key()]
        return str(max(decoders, key=lambda row: row["val_f1"])["decoder"])

    def all_rows(self) -> list[str]:
        """Keys of its table, those that diverged too."""
        return [str(row["key"]) for row in self.content["rows"]]

    def rows(self) -> dict[str, list[Mapping[str, Any]]]:
        """Rows of the table by key, each with its decoders; of a grid the winner alone."""
        if "best" in self.content:
            return {str(self.content["best"]["prompt"]): [self.content["best"]]}
        if self.content["study"] == "train":
            return {str(row["key"]): [row] for row in self.content["rows"] if row["threshold"] is not None}
        return {str(row["key"]): row["per_fold"] for row in self.content["rows"] if row["status"] == "done"}

    def _decoders(self, key: str) -> list[Mapping[str, Any]]:
        rows = self.rows()
        if key not in rows:
            raise UsageError(f"{self.path} has no prompt {key}", expected=", ".join(rows) or "none at all")
        return rows[key]

    def _model(self, row: Mapping[str, Any], priors: Mapping[str, Any]) -> Model:
        fold = str(row["fold"])
        described = priors[f"{fold}_{row['prompt']}"]
        prompt = config_from_dict(described)
        return Model(
            key=row["decoder"],
            fold=fold,
            seed=row["seed"],
            threshold=row["threshold"],
            prompt=prompt,
            prior=Prior.from_dict(described["prior"]),
            path=self.path / "decoders" / f"{row['decoder']}.safetensors",
            n_train=row["n_train"],
            val_f1=row["val_f1"],
            together=row.get("together", 1) > 1,
            views=views_for(prompt, self.test_views),
        )


def _mean_val(rows: Sequence[Mapping[str, Any]]) -> float:
    return float(np.mean([row["val_f1"] for row in rows]))
