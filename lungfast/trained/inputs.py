"""What a pass of K decoders reads: the image side, the prompts, and what no decoder of a stack trains.

Comes in: cached features (G, B, N, C + F), from SAM's frozen prompt encoder two constants. Goes out: image
tokens with the dense prompt added, high-resolution features, in the type of the arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lungfast.errors import CheckpointError
from lungfast.records import Size
from lungfast.trained.attention import Sharing
from lungfast.trained.upscaling import Fine

SUM_TOKENS = 1024
"""Image tokens that are summed with the dense prompt at once: 1 MB in float32, which stays in the cache."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What one pass of K decoders reads, floating-point tensors in the dtype of the weights.

    ``image_GBNC`` is the embedding with the dense prompt added, ``encoding_NC`` the positional encoding of
    the image tokens; tokens are (K, B, I, P, C), ``mask_KBIP`` is True where a prompt token is real.
    ``fine_GBNF`` are high-resolution features, for decoders that read them.
    """

    image_GBNC: Tensor
    encoding_NC: Tensor
    tokens_KBIPC: Tensor
    mask_KBIP: Tensor
    fused: bool
    """Through the hand-written passes of fused.py and pixels.py: for one decoder, eager, on a CPU."""
    fine_GBNF: Tensor | None = None

    @property
    def share(self) -> Sharing:
        k, images, prompts = self.tokens_KBIPC.shape[:3]
        groups = self.image_GBNC.shape[0]
        return Sharing(groups=groups, decoders=k // groups, images=images, prompts=prompts)

    @property
    def fine(self) -> Fine | None:
        if self.fine_GBNF is None:
            return None
        return Fine(maps_SNF=self.fine_GBNF.flatten(0, 1), share=self.share)


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What all decoders of a stack share and none trains, from SAM's frozen prompt encoder."""

    encoding_NC: Tensor
    dense_C: Tensor
    grid: Size

    def image(self, features_GBNC: Tensor, dtype: torch.dtype) -> Tensor:
        """The embedding with the dense prompt added, summed in the constants' dtype, then rounded once."""
        channels = len(self.dense_C)
        if features_GBNC.device.type != "cpu":
            return (features_GBNC[..., :channels].to(self.dense_C.dtype) + self.dense_C).to(dtype)
        out_GBNC = torch.empty((*features_GBNC.shape[:-1], channels), dtype=dtype)
        self.image_into(features_GBNC, out_GBNC)
        return out_GBNC

    def fine(self, features_GBNC: Tensor, dtype: torch.dtype) -> Tensor:
        """The high-resolution features, which follow the embedding."""
        embedding, found = len(self.dense_C), features_GBNC.shape[-1]
        if found == embedding:
            raise CheckpointError(
                "the decoder reads high-resolution features, and there are none",
                found=f"{found} channels a token",
                expected=f"more than {embedding}",
            )
        return features_GBNC[..., embedding:].to(dtype).contiguous()

    def image_into(self, features_GBNC: Tensor, out_GBNC: Tensor) -> None:
        """The same on a CPU, slice by slice; any leading axes."""
        channels = len(self.dense_C)
        sources = torch.split(features_GBNC.flatten(0, -2)[:, :channels], SUM_TOKENS)
        for source, out in zip(sources, torch.split(out_GBNC.view(-1, channels), SUM_TOKENS), strict=True):
            out.copy_(source.to(self.dense_C.dtype) + self.dense_C)
