"""From image tokens to pixels: SAM's two transposed convolutions and the product with the hypernetwork.

Comes in: a decoder's parameters, image tokens (K, R, N, C), the hypernetwork's numbers (K, R, C/8), and maybe
high-resolution features, which are added to the first convolution's maps as SAM 2 does. Goes out: logits
(K, R, N*16), pixels token by token; or losses of one decoder on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lungfast.trained.attention import Params, Scope, Sharing, linear, project_image
from lungfast.trained.norms import layer_norm, wide_dtype
from lungfast.trained.parameters import HIGH_RES
from lungfast.trained.pixels import NORM_EPS, LossOf, pixel_logits, pixel_loss

_ROOM = "output_upscaling."


@dataclass(frozen=True, kw_only=True)
class Fine:
    """High-resolution features (S, N, F) as the image side has them: F is 4 cells of a token x channels."""

    maps_SNF: Tensor
    share: Sharing

    def projected(self, weight_KOc: Tensor) -> Tensor:
        """(K, R, N*4, O): through every decoder's convolution."""
        return project_image(weight_KOc, self._cells(self.maps_SNF), self.share)

    def of_one(self) -> Tensor:
        """(R, N*4, channels) of one decoder's prompts."""
        return self._cells(self.maps_SNF.repeat_interleave(self.share.prompts, 0))

    @staticmethod
    def _cells(maps_SNF: Tensor) -> Tensor:
        return torch.unflatten(maps_SNF, 2, (4, -1)).flatten(1, 2)


def mask_logits(
    params: Params, image_KRNC: Tensor, hyper_KRc: Tensor, fine: Fine | None, *, fused: bool
) -> Tensor:
    """Upscale to N*16 pixels of C/8 channels and multiply by the hypernetwork: (K, R, N*16).

    LayerNorm2d over the channels of a pixel is a plain layer norm here.
    """
    if fused:
        pixels = pixel_logits(image_KRNC.squeeze(0), hyper_KRc.squeeze(0), *_of_one(params, fine))
        return pixels.unsqueeze(0)
    high_res, params = params, Scope(params, _ROOM)
    first, first_bias = _as_matrix(params, "0")
    second, second_bias = _as_matrix(params, "3")
    k, r, n, _ = image_KRNC.shape
    low = linear(image_KRNC, first.transpose(1, 2), first_bias).view(k, r, n * 4, -1)
    if fine is not None:
        low = low + fine.projected(high_res[HIGH_RES].flatten(2))
    low = F.gelu(layer_norm(low, params["1.weight"], params["1.bias"], NORM_EPS))
    high = F.gelu(linear(low, second.transpose(1, 2), second_bias)).view(k * r, n * 16, -1)
    hyper_S1c = hyper_KRc.reshape(k * r, 1, -1)
    if torch.compiler.is_compiling():  # in one pass with GELU, where a product would be two more
        logits = (high.to(wide_dtype(high)) * hyper_S1c).sum(2).to(high.dtype)
    else:
        logits = torch.bmm(high, hyper_S1c.mT)
    return logits.view(k, r, -1)


def mask_losses(
    params: Params, image_KRNC: Tensor, hyper_KRc: Tensor, fine: Fine | None, loss_of: LossOf
) -> Tensor:
    """Losses (R,) of one decoder's logits by :func:`pixel_loss`."""
    return pixel_loss(loss_of, image_KRNC.squeeze(0), hyper_KRc.squeeze(0), *_of_one(params, fine))


def _of_one(params: Params, fine: Fine | None) -> tuple[Tensor | None, list[Tensor]]:
    """High-resolution features, and the weights of one decoder, as pixels.py takes them."""
    scope = Scope(params, _ROOM)
    norm = (scope["1.weight"], scope["1.bias"])
    weights = [*_as_matrix(scope, "0"), *norm, *_as_matrix(scope, "3")]
    if fine is not None:
        weights.append(params[HIGH_RES].flatten(2).transpose(1, 2))
    return None if fine is None else fine.of_one(), [part.squeeze(0) for part in weights]


def _as_matrix(params: Params, name: str) -> tuple[Tensor, Tensor]:
    """A transposed convolution of kernel and stride 2 as (K, C, 4*O) and (K, 4*O), columns (dy, dx, O)."""
    weight_KCO22 = params[name + ".weight"]
    return weight_KCO22.permute(0, 1, 3, 4, 2).flatten(2), params[name + ".bias"].repeat(1, 4)
