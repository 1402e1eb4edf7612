"""What the quality flag says of masks whose truth is known, and the cut that their own fold has not met.

Comes in: verdicts on masks, their true F1, which decoder gave them and of which image. Goes out: rows of the
quality study, and cuts. Of five folds every image validates one decoder: a cut that is tried on a fold's test
images leaves those out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lungfast.geometry import Frame
from lungfast.records import Bool, Float32, Float64, Int64
from lungfast.scored.kernels import predict_mask
from lungfast.scored.quality import flag_scores, highest_cut
from lungfast.scored.sides import lung_areas
from lungfast.studies.ensemble import mean_threshold
from lungfast.studies.judged import quality_and_disagreement, reasons_to_look

Verdict = tuple[float, bool]
"""Quality, and whether a plain rule flags the mask."""
TOGETHER = -1
DIVIDED_AT = 512
"""Long side in px of the masks whose lungs are counted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """Quality and true F1 of some masks, which of them the plain rules flag, and whose they are.

    ``decoder_N`` counts the run's decoders (:data:`TOGETHER` where all of them judged), ``image_N`` a cache's
    images.
    """

    on: str
    quality_N: Float64
    plain_N: Bool
    f1_N: Float64
    decoder_N: Int64
    image_N: Int64

    @classmethod
    def of(
        cls,
        on: str,
        verdicts: Sequence[Verdict],
        f1_N: Float64 | Sequence[float],
        films: Sequence[tuple[int, int]],
    ) -> Judged:
        """``films`` are (decoder, image) of every verdict."""
        quality, plain = zip(*verdicts, strict=True)
        decoders, images = zip(*films, strict=True)
        return cls(
            on=on,
            quality_N=np.array(quality, np.float64),
            plain_N=np.array(plain, np.bool_),
            f1_N=np.array(f1_N, np.float64),
            decoder_N=np.array(decoders, np.int64),
            image_N=np.array(images, np.int64),
        )

    def row(self, cut_N: float | Float64) -> dict[str, Any]:
        """How the flag does under one cut, or a cut a mask."""
        flags = flag_scores((self.quality_N < cut_N) | self.plain_N, self.f1_N)
        return {"on": self.on} | asdict(flags) | {"f1": float(self.f1_N.mean())}

    def cuts_without(self, tested_K: Sequence[Int64]) -> Float64:
        """(K,): the highest cut of these masks for every decoder, without the images it is tested on."""
        kept_K = [~np.isin(self.image_N, tested) for tested in tested_K]
        return np.array([highest_cut(self.quality_N[kept], self.f1_N[kept]) for kept in kept_K])


def verdict(logits_K: Sequence[Float32], thresholds: Sequence[float], frame: Frame) -> Verdict:
    """What ``predict`` would say of the mean of these logits (h, w), its lungs counted on a smaller mask."""
    logits_Khw = np.stack(logits_K)
    valid_hw = frame.valid_hw((logits_Khw.shape[1], logits_Khw.shape[2]))
    quality, apart = quality_and_disagreement(logits_Khw, valid_hw, thresholds)
    scale = min(1.0, DIVIDED_AT / max(frame.native_size))
    height, width = (max(1, round(side * scale)) for side in frame.native_size)
    mean_hw = logits_Khw.mean(0, dtype=np.float32)
    mask_HW = predict_mask(mean_hw, replace(frame, native_size=(height, width)), mean_threshold(thresholds))
    return quality, bool(reasons_to_look(lung_areas(mask_HW).division, apart))
