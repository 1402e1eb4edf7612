"""One answer from several views of a film: a decoder's logits of each, back on the film and averaged.

Comes in: predictions of single rows of a cache, how many views of an image each decoder averages. Goes out:
predictions of images. Why: what a frozen encoder says of a place depends a little on where the place lies in
its grid of tokens; the views put it elsewhere each, and the mean is nearer to the truth than any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from lungfast.data.views import ViewConfig, mean_on_film
from lungfast.errors import CacheError
from lungfast.frozen.cache import EmbeddingCache
from lungfast.frozen.prompts import PromptConfig
from lungfast.records import Float32


def views_for(prompt: PromptConfig, asked: int) -> int:
    """One for a box of the truth: the boxes of turned views together tell more of the truth than one does."""
    return 1 if prompt.is_oracle else asked


def views_of_cache(cache: EmbeddingCache) -> ViewConfig:
    """How a cache's altered views were made; CacheError where it does not say so."""
    return views_as_made(cache.fingerprint.view_settings, cache.url)


def views_as_made(text: str, url: str) -> ViewConfig:
    """The same of a fingerprint's ``view_settings``, of the cache at ``url``."""
    try:
        return ViewConfig.from_text(text)
    except ValueError as error:
        raise CacheError(
            f"{url} does not say how its views lie on the films",
            found=repr(text),
            expected="the settings of --views",
            fix="embed again",
        ) from error


def averaged(
    cache: EmbeddingCache, predictions: Iterator[tuple[int, int, Float32]], views_K: Sequence[int]
) -> Iterator[tuple[int, int, Float32]]:
    """(decoder, row, logits_hw) of rows -> (decoder, image, mean logits_hw), once all views have been seen.

    ``views_K``: of each decoder; it sees the first so many rows of its images.
    """
    config = views_of_cache(cache) if max(views_K, default=1) > 1 else None
    waiting: dict[tuple[int, int], dict[int, Float32]] = {}
    for k, row, logits_hw in predictions:
        image = cache.image_of_row(row)
        if config is None or views_K[k] == 1:
            yield k, image, logits_hw
            continue
        seen = waiting.setdefault((k, image), {})
        seen[row] = logits_hw
        if len(seen) == views_K[k]:
            del waiting[k, image]
            record = cache.images[image]
            logits_Vhw = np.stack([seen[row] for row in record.rows[: len(seen)]])
            yield k, image, mean_on_film(logits_Vhw, record.id, cache.frame(image), config)
