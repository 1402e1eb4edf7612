"""How fast a run trained and how much memory it took: epochs as they end in, pace.json out.

A file beside the results, not part of them: the same study on the same machine gives the same results.json.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from lungfast.compute import peak_memory_mb
from lungfast.records import EpochEnd
from lungfast.runs import PACE, RunFolder, read_json


def timed(epochs: Iterable[EpochEnd], run: RunFolder, *, images: int, batch_size: int) -> Iterator[EpochEnd]:
    """The epochs as they are; after the last one the pace of this training is added to the run's.

    ``images``: training images of the decoder that has most. Seconds are those of an epoch with its
    validation, the median over the epochs of this start.
    """
    seconds: list[float] = []
    keys: tuple[str, ...] = ()
    pairs = 1
    for end in epochs:
        seconds.append(end.seconds)
        pairs, keys = max(pairs, end.images), end.keys
        yield end
    if seconds:
        usual = median(seconds)
        found = {
            "first": keys[0],
            "decoders": len(keys),
            "epochs": len(seconds),
            "seconds_an_epoch": round(usual, 3),
            "ms_a_step": round(1e3 * usual / math.ceil(images / batch_size), 2),
            "ms_a_decoder_and_image": round(1e3 * usual / pairs, 2),
            "peak_memory_mb": peak_memory_mb(),
        }
        run.write(PACE, [*(one for one in read_pace(run.path) if one["first"] != keys[0]), found])


def read_pace(folder: Path) -> list[dict[str, Any]]:
    """One entry a training of the run, empty where none is known."""
    return list(read_json(folder / PACE)) if (folder / PACE).exists() else []
