"""The model before fine-tuning, on the test images of every fold; nothing is chosen. Paper: Table I.

Mask token 0 at threshold 0.5. With ``multimask`` also the best of SAM's three other masks, by the IoU that
SAM itself predicts. Points and automatic boxes come from each fold's own training images, as everywhere; or
they and the threshold from all images of another cache, of generated X-rays say: then no mask of this one is
used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lungfast.data.splits import make_folds, splits_as_dict
from lungfast.errors import DataError
from lungfast.frozen.encoders import decoder_origin
from lungfast.frozen.nano import sam_head_modules
from lungfast.frozen.priors import Prior
from lungfast.frozen.prompts import PromptConfig
from lungfast.records import PromptKind, Split
from lungfast.runs import RunFolder, results
from lungfast.scored.scores import DEFAULT_THRESHOLDS, choose_threshold
from lungfast.studies.fitting import Listener
from lungfast.studies.scoring import Candidate, Predictions, Scored, predictions, prepare, score
from lungfast.studies.session import ScoreBody, cache_facts
from lungfast.studies.summaries import FoldScores, image_block, summary
from lungfast.studies.workspace import Workspace
from lungfast.trained.batches import plan_batches

if TYPE_CHECKING:
    from torch import Tensor

    from lungfast.trained.batches import StackBatch

THRESHOLD = 0.5
SINGLE, BEST_OF_THREE = "single", "best of three"


@dataclass(frozen=True, kw_only=True)
class BaselineConfig:
    """Prompts to score, folds, and whether SAM's three-mask output is scored too."""

    prompts: tuple[PromptConfig, ...]
    multimask: bool = False
    folds: int = 5
    split_seed: int = 0
    seed: int = 0
    """Of the bootstrap."""
    prior_sha256: str | None = None
    """The hash of the data that points, boxes and thresholds come from, where that is another cache's."""


@dataclass(frozen=True, kw_only=True)
class Decided:
    """About a prompt: where points and boxes lie, and the threshold; by default nothing is decided."""

    prior: Prior | None = None
    """None: that of each fold's training images."""
    threshold: float = THRESHOLD


def baseline(
    config: BaselineConfig,
    workspace: Workspace,
    memory_bytes: int,
    listener: Listener,
    *,
    prior_from: Workspace | None = None,
) -> ScoreBody:
    """The body of the study, to be run in a run folder.

    CacheError where ``prior_from`` has another encoder, DataError where it holds one of the images.
    """
    if prior_from is not None:
        workspace.check_encoder_of(prior_from)
        if shared := workspace.pixels & prior_from.pixels:
            raise DataError(
                f"points from {prior_from.cache.url} would know some of the images",
                found=f"{len(shared)} whose pixels both caches have",
                expected="another set",
            )

    def body(run: RunFolder, made_with: dict[str, Any]) -> dict[str, Any]:
        images = workspace.cache.images
        splits = make_folds(images, config.folds, seed=config.split_seed)
        run.write_once("splits.json", splits_as_dict(splits, images))
        decided = dict.fromkeys([prompt.kind for prompt in config.prompts], Decided())
        if prior_from is not None:
            decided = _decided(config, prior_from, memory_bytes, listener)
        scan = tuple(sorted({one.threshold for one in decided.values()}))
        places = {kind: scan.index(one.threshold) for kind, one in decided.items()}
        everyone = [
            one
            for prompt in config.prompts
            for one in _candidates(workspace, prompt, splits, decided[prompt.kind].prior, seed=config.seed)
        ]
        width = prepare(workspace, memory_bytes, len(everyone))
        kinds = {SINGLE: predictions(workspace, everyone, width=width)}
        if config.multimask:
            kinds[BEST_OF_THREE] = _best_of_three(workspace, everyone)
        rows, scores = [], {}
        for mask, logits in kinds.items():
            listener.phase(f"scoring, {mask} mask", sum(len(one.images) for one in everyone))
            scored = score(
                workspace, logits, [one.images for one in everyone], scan, advance=listener.advance
            )
            for prompt, folds in _by_prompt(config, splits, scored, places).items():
                key = prompt.kind if mask == SINGLE else f"{prompt.kind}, {mask}"
                scores[key] = folds
                head = _row(key, prompt, mask, workspace) | {"threshold": scan[places[prompt.kind]]}
                rows.append(head | summary(folds, images, seed=config.seed))
        content = results("baseline", rows, made_with) | {"images": image_block(scores, images)}
        if prior_from is not None:
            content["prior_from"] = cache_facts(prior_from)
        run.write_results(content)
        return content

    return body


def _decided(
    config: BaselineConfig, elsewhere: Workspace, memory_bytes: int, listener: Listener
) -> dict[PromptKind, Decided]:
    """By prompt, from all images of another cache: its prior, and the threshold of the highest mean F1."""
    everything = np.arange(len(elsewhere.cache.images))
    prompts = [elsewhere.prompts(prompt, everything, seed=config.seed) for prompt in config.prompts]
    candidates = [
        Candidate(
            key=one.config.kind, prompts=one, state=lambda: elsewhere.head.mask_decoder, images=everything
        )
        for one in prompts
    ]
    width = prepare(elsewhere, memory_bytes, len(candidates))
    listener.phase("points and thresholds from elsewhere", len(candidates) * len(everything))
    logits = predictions(elsewhere, candidates, width=width)
    images_K = [everything] * len(candidates)
    scored = score(elsewhere, logits, images_K, DEFAULT_THRESHOLDS, advance=listener.advance)
    return {
        one.config.kind: Decided(
            prior=one.prior,
            threshold=choose_threshold(found.values["f1"], DEFAULT_THRESHOLDS).threshold,
        )
        for one, found in zip(prompts, scored, strict=True)
    }


def _candidates(
    workspace: Workspace,
    prompt: PromptConfig,
    splits: Sequence[Split],
    prior: Prior | None,
    *,
    seed: int,
) -> list[Candidate]:
    return [
        Candidate(
            key=f"{split.name}_{prompt.kind}",
            prompts=workspace.prompts(prompt, split.train, seed=seed)
            if prior is None
            else workspace.prompts_at(prompt, prior, seed=seed),
            state=lambda: workspace.head.mask_decoder,
            images=split.test,
        )
        for split in splits
    ]


def _by_prompt(
    config: BaselineConfig,
    splits: Sequence[Split],
    scored: Sequence[Scored],
    places: Mapping[PromptKind, int],
) -> Mapping[PromptConfig, list[FoldScores]]:
    """Scores in the order of the candidates: prompt by prompt, fold by fold; ``places`` of the thresholds."""
    waiting = iter(scored)
    return {
        prompt: [
            FoldScores(fold=split.name, seed=config.seed, scored=next(waiting), index=places[prompt.kind])
            for split in splits
        ]
        for prompt in config.prompts
    }


def _row(key: str, prompt: PromptConfig, mask: str, workspace: Workspace) -> dict[str, Any]:
    return {
        "key": key,
        "prompt": prompt.kind,
        "needs_ground_truth": prompt.is_oracle,
        "mask": mask,
        "decoder_origin": decoder_origin(workspace.cache.spec),
        "untrained": workspace.head.is_untrained,
        "status": "done",
    }


# --- SAM's three masks -----------------------------------------------------------------------------


def _best_of_three(workspace: Workspace, candidates: Sequence[Candidate]) -> Predictions:
    """Of masks 1 to 3 the one with the highest predicted IoU, image by image through segment-anything."""
    import torch

    spec = workspace.cache.spec
    decoder = sam_head_modules(spec.grid, spec.input_size)[1]
    decoder.load_state_dict(workspace.head.mask_decoder)
    decoder.requires_grad_(False).eval().to(workspace.device)
    for k, one in enumerate(candidates):
        batches = plan_batches([workspace.rows_of(one.images)], 8)
        for rows, batch in workspace.maker([one.prompts]).stream(batches, epoch=None):
            for b in np.flatnonzero(rows.weight_KB[0] > 0):
                with torch.inference_mode():
                    logits_hw = _three_masks(decoder, workspace, batch, int(b))
                yield (
                    k,
                    workspace.cache.image_of_row(int(rows.rows_KB[0, b])),
                    logits_hw.float().cpu().numpy(),
                )


def _three_masks(decoder: Any, workspace: Workspace, batch: StackBatch, b: int) -> Tensor:
    """Logits (h, w) of one image; several instances (one box a lung) merge by the maximum."""
    height, width = workspace.cache.spec.grid
    encoder, device = workspace.prompt_encoder, workspace.device
    embedding_NC = batch.features_GBNC[0, b, :, : len(encoder.dense_C)]
    image_1CEhEw = embedding_NC.float().T.reshape(1, -1, height, width)
    masks_IMhw, quality_IM = decoder.predict_masks(
        image_embeddings=image_1CEhEw,
        image_pe=encoder.pe_NC.T.reshape(1, -1, height, width).to(device),
        sparse_prompt_embeddings=batch.tokens_KBIPC[0, b],
        dense_prompt_embeddings=encoder.dense_C.view(1, -1, 1, 1)
        .expand(len(batch.tokens_KBIPC[0, b]), -1, height, width)
        .to(device),
    )
    best_I = quality_IM[:, 1:].argmax(dim=1) + 1
    merged_hw: Tensor = masks_IMhw[range(len(best_I)), best_I].amax(dim=0)
    return merged_hw
