"""DiceFocal and DiceCE per (decoder, image), equal to MONAI's per sample on the part that is image.

Comes in: logits, targets and a validity mask, pixels in any common order. Goes out: one loss per decoder and
image. Why not MONAI's classes: they reduce over the batch (``DiceCELoss(reduction="none")`` raises), know no
padding, and go over the pixels three times as often.

Equal to ``DiceFocalLoss(sigmoid=True)`` and ``DiceCELoss(sigmoid=True)`` of MONAI 1.4 to 1.6 with their
defaults (gamma 2, weights 1, smooth 1e-5, ``batch=False``) on each sample's valid crop; for one channel
DiceCE is Dice plus binary cross entropy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lungfast.records import LossName

SMOOTH = 1e-5
"""MONAI's default ``smooth_nr`` and ``smooth_dr``."""


def focal_flags(losses_K: Sequence[LossName], device: torch.device | str = "cpu") -> Tensor:
    """(K,) True where a decoder trains with DiceFocal, False for DiceCE."""
    return torch.tensor([name == "dicefocal" for name in losses_K], device=device)


def segmentation_loss(logits_KBX: Tensor, target_GBX: Tensor, valid_GBX: Tensor, focal_K: Tensor) -> Tensor:
    """Loss of every decoder on every image, (K, B), in the logits' dtype (float32 or float64).

    ``target_GBX`` and ``valid_GBX`` are boolean with G = 1 (shared) or K. An image without a valid pixel
    has the loss of an empty sum, not NaN.
    """
    valid = valid_GBX.to(logits_KBX.dtype)
    target = target_GBX.to(logits_KBX.dtype) * valid
    prob = torch.sigmoid(logits_KBX) * valid
    overlap = (prob * target).sum(-1)
    dice = 1 - (2 * overlap + SMOOTH) / (prob.sum(-1) + target.sum(-1) + SMOOTH)
    # cross entropy with logits; F.softplus would switch to the identity above 20 and be off by 2e-9
    cross_entropy = logits_KBX - logits_KBX * target - F.logsigmoid(logits_KBX)
    # 1 - p_t for a binary target; squared, it is the focal factor of gamma 2
    miss = prob + target - 2 * prob * target
    pixel = torch.where(focal_K[:, None, None], miss * miss, valid) * cross_entropy
    return dice + (pixel * valid).sum(-1) / valid.sum(-1).clamp(min=1)
