"""SAM's frozen prompt encoder as pure functions on the CPU.

Comes in: the head's ``prompt_encoder`` tensors, points and boxes in the encoder's input pixels. Goes out:
prompt tokens, the positional encoding of the grid and the "no mask" embedding: the three things the decoder
takes. The same numbers as segment-anything's ``PromptEncoder``, batched over images and instances; in NumPy,
as torch's thread pool makes these small arrays slow beside busy threads (34 ms for 8 images, not 0.7).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from lungfast.records import Float32, Float64, Int64, Size

if TYPE_CHECKING:
    from torch import Tensor

_FREQUENCIES = "pe_layer.positional_encoding_gaussian_matrix"


class FrozenPromptEncoder:
    """``state`` is ``Head.prompt_encoder``; ``grid`` (Eh, Ew); ``input_size`` the padded side in pixels."""

    def __init__(self, state: Mapping[str, Tensor], grid: Size, input_size: int) -> None:
        self.grid, self.input_size = grid, input_size
        self._frequencies_2F = _float32(state[_FREQUENCIES])
        kinds = ["not_a_point_embed", *(f"point_embeddings.{i}" for i in range(4))]
        # padding point, negative, positive, first corner, second corner
        self._kinds_5C = np.concatenate([_float32(state[f"{kind}.weight"]) for kind in kinds])
        self.dense_C: Tensor = state["no_mask_embed.weight"].detach().cpu().float()[0]
        """Added to every image token where no mask is given."""

    @cached_property
    def pe_NC(self) -> Tensor:
        """``get_dense_pe()``, token-major."""
        import torch

        height, width = self.grid
        y = (np.arange(height, dtype=np.float32) + np.float32(0.5)) / np.float32(height)
        x = (np.arange(width, dtype=np.float32) + np.float32(0.5)) / np.float32(width)
        return torch.from_numpy(self._position(np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)))

    def encode(
        self,
        *,
        points_BIP2: Float64 | None = None,
        labels_BIP: Int64 | None = None,
        boxes_BI4: Float64 | None = None,
    ) -> Float32:
        """Tokens (B, I, P, C): points, a padding point where there is no box, box corners.

        Coordinates are (x, y) input pixels of pixel centres (half a pixel is added here, as in
        segment-anything); a box is (x0, y0, x1, y1); labels are 1 (lung), 0 (not lung) or -1 (padding).
        P is N + 1 for N points alone, 2 for a box, N + 2 for both.
        """
        parts: list[Float32] = []
        if points_BIP2 is not None and labels_BIP is not None:
            parts.append(self._points(points_BIP2, labels_BIP))
            if boxes_BI4 is None:
                padding_BI1C = np.broadcast_to(
                    self._kinds_5C[:1], (*parts[0].shape[:2], 1, parts[0].shape[3])
                )
                parts.append(padding_BI1C)
        if boxes_BI4 is not None:
            corners_BI22 = boxes_BI4.reshape(*boxes_BI4.shape[:2], 2, 2)
            parts.append(self._position_of(corners_BI22) + self._kinds_5C[3:])
        if not parts:
            raise ValueError("a prompt needs points with labels, or a box")
        return np.concatenate(parts, axis=2)

    def _points(self, points_BIP2: Float64, labels_BIP: Int64) -> Float32:
        if not np.isin(labels_BIP, (-1, 0, 1)).all():
            raise ValueError(f"point labels are 1, 0 or -1, got {np.unique(labels_BIP).tolist()}")
        position_BIPC = self._position_of(points_BIP2) * (labels_BIP >= 0)[..., None]
        return np.asarray(position_BIPC + self._kinds_5C[labels_BIP + 1])

    def _position_of(self, pixels_BIP2: Float64) -> Float32:
        return self._position(
            (pixels_BIP2.astype(np.float32) + np.float32(0.5)) / np.float32(self.input_size)
        )

    def _position(self, unit_2: Float32) -> Float32:
        """(…, 2) in [0, 1] -> (…, C): sines and cosines of the stored random frequencies."""
        phase = np.float32(2 * math.pi) * ((2 * unit_2 - 1) @ self._frequencies_2F)
        return np.concatenate([np.sin(phase), np.cos(phase)], axis=-1)


def _float32(tensor: Tensor) -> Float32:
    return np.asarray(tensor.detach().cpu().float().numpy())
