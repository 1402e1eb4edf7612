"""From image tokens to pixels: SAM's two transposed convolutions and the product with the hypernetwork.

Comes in: the parameters below ``output_upscaling.``, image tokens (K, R, N, C), and the hypernetwork's
numbers (K, R, C/8). Goes out: logits (K, R, N*16), pixels token by token; or losses of one decoder on a CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lungfast.trained.attention import Params, linear
from lungfast.trained.norms import layer_norm
from lungfast.trained.pixels import NORM_EPS, LossOf, pixel_logits, pixel_loss


def mask_logits(params: Params, image_KRNC: Tensor, hyper_KRc: Tensor, *, fused: bool) -> Tensor:
    """Upscale to N*16 pixels of C/8 channels and multiply by the hypernetwork: (K, R, N*16).

    LayerNorm2d over the channels of a pixel is a plain layer norm here.
    """
    if fused:
        pixels = pixel_logits(image_KRNC.squeeze(0), hyper_KRc.squeeze(0), _of_one(params))
        return pixels.unsqueeze(0)
    first, first_bias = _as_matrix(params, "0")
    second, second_bias = _as_matrix(params, "3")
    k, r, n, _ = image_KRNC.shape
    low = linear(image_KRNC, first.transpose(1, 2), first_bias).view(k, r, n * 4, -1)
    low = F.gelu(layer_norm(low, params["1.weight"], params["1.bias"], NORM_EPS))
    high = F.gelu(linear(low, second.transpose(1, 2), second_bias)).view(k * r, n * 16, -1)
    return torch.bmm(high, hyper_KRc.reshape(k * r, -1, 1)).view(k, r, -1)


def mask_losses(params: Params, image_KRNC: Tensor, hyper_KRc: Tensor, loss_of: LossOf) -> Tensor:
    """Losses (R,) of one decoder's logits by :func:`pixel_loss`."""
    return pixel_loss(loss_of, image_KRNC.squeeze(0), hyper_KRc.squeeze(0), _of_one(params))


def _of_one(params: Params) -> list[Tensor]:
    """The weights of one decoder, as pixels.py takes them."""
    norm = (params["1.weight"], params["1.bias"])
    return [part.squeeze(0) for part in (*_as_matrix(params, "0"), *norm, *_as_matrix(params, "3"))]


def _as_matrix(params: Params, name: str) -> tuple[Tensor, Tensor]:
    """A transposed convolution of kernel and stride 2 as (K, C, 4*O) and (K, 4*O), columns (dy, dx, O)."""
    weight_KCO22 = params[name + ".weight"]
    return weight_KCO22.permute(0, 1, 3, 4, 2).flatten(2), params[name + ".bias"].repeat(1, 4)
