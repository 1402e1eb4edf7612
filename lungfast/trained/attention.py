"""The three attentions of SAM's two-way transformer, for K decoders and R prompts at once.

Comes in: token-side tensors (K, R, T, C), image-side tensors (S, N, C), and one attention's parameters with
a leading K. Goes out: what segment-anything's ``Attention`` returns, up to rounding. Why: N = 4096 image
tokens meet only T ~ 8 prompt tokens, so projecting the image side (N*C*128 products, two or three times) is
the waste.

*Absorbed*: the image-side projection moves onto the few tokens, head by head. With x_n an image token,

    token -> image:  q_h·(Wk_h x_n + bk_h) = (Wk_hᵀ q_h)·x_n + const
                     Σ_n a_n (Wv_h x_n + bv_h) = Wv_h (Σ_n a_n x_n) + bv_h
    image -> token:  (Wq_h x_n + bq_h)·k_h = x_n·(Wq_hᵀ k_h) + bq_h·k_h
                     Wo_h Σ_t a_t v_h,t = Σ_t a_t (Wo_h v_h,t)

so the image tokens are multiplied by heads*T columns instead of 128 channels: less while T < 17, and as it is
done by hand quicker up to T = 24 (:data:`ABSORB_BELOW`); above, the *stock* order projects the image side as
segment-anything does. The constant is the same for every key of a query and leaves the softmax alone; so do
key biases, which are therefore absent from the parameters (see parameters.py).

*Shared image tokens.* In the first block every decoder of a group reads the same image, and every prompt of
an image too: S image-side samples serve K*R token-side ones, K = G*D and S*D*J = K*R. :class:`Sharing` turns
the tokens of all that read one image into rows of one product, so an image is read once.

Padded prompt tokens are masked as keys (self-attention, image -> token); as queries their results are unused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from lungfast.trained.fused import attend, update
from lungfast.trained.norms import layer_norm
from lungfast.trained.parameters import HEADS

ABSORB_BELOW = 25
"""Tokens from which projecting the image side is quicker. From 17 on it is the smaller product (heads*T = 136
columns against 128), but one that autograd differentiates: at 17, 19 and 22 tokens a step takes 9, 14 and 18
% less time absorbed, at 25 as much, at 28 a tenth more (fp32, 2 cores, 32x32 and 64x64 image tokens)."""


class Params(Protocol):
    """Parameters by name, each with a leading K; see :class:`Scope`."""

    def __getitem__(self, name: str, /) -> Tensor: ...


@dataclass(frozen=True)
class Scope:
    """The parameters below a prefix, as ``Scope(params, "transformer.layers.0.")["norm1.weight"]``."""

    params: Params
    prefix: str

    def __getitem__(self, name: str, /) -> Tensor:
        return self.params[self.prefix + name]


@dataclass(frozen=True, kw_only=True)
class Sharing:
    """Which token-side samples read which image: K decoders in groups, R prompts over images.

    Group g of G holds decoders g*D .. g*D+D-1, image b of B holds prompts b*J .. b*J+J-1. The image side has
    S = G*B samples in the order (g, b).
    """

    groups: int
    decoders: int
    images: int
    prompts: int

    @classmethod
    def none(cls, decoders: int, prompts: int) -> Sharing:
        """Every token-side sample has an image of its own (in the second block and after)."""
        return cls(groups=decoders, decoders=1, images=prompts, prompts=1)

    def gather(self, tokens_KRXC: Tensor) -> Tensor:
        """(K, R, X, C) -> (S, D*J*X, C): the rows that meet one image."""
        *_, rows, channels = tokens_KRXC.shape
        split = tokens_KRXC.reshape(self.groups, self.decoders, self.images, self.prompts, rows, channels)
        return split.transpose(1, 2).reshape(self.groups * self.images, -1, channels)

    def scatter(self, rows_SXC: Tensor) -> Tensor:
        """(S, D*J*X, Y) -> (K, R, X, Y), the inverse of :meth:`gather` for any last axis."""
        last = rows_SXC.shape[-1]
        split = rows_SXC.reshape(self.groups, self.images, self.decoders, self.prompts, -1, last)
        merged = split.transpose(1, 2)
        return merged.reshape(self.groups * self.decoders, self.images * self.prompts, -1, last)

    def spread(self, image_SNC: Tensor) -> Tensor:
        """(S, N, C) -> (K, R, N, C), a view where nothing is shared."""
        _, n, c = image_SNC.shape
        shape = (self.groups, self.decoders, self.images, self.prompts, n, c)
        split = image_SNC.view(self.groups, 1, self.images, 1, n, c).expand(shape)
        return split.reshape(self.groups * self.decoders, self.images * self.prompts, n, c)


@dataclass(frozen=True, kw_only=True)
class ImageTokens:
    """The image side: values (S, N, C), and positions, the same with the positional encoding added.

    ``fused`` sends the absorbed attentions through fused.py (one decoder, CPU, eager). There the gradient of
    the values includes the positions', which carry none.
    """

    value_SNC: Tensor
    position_SNC: Tensor
    encoding_NC: Tensor
    share: Sharing
    fused: bool

    @classmethod
    def of(cls, value_SNC: Tensor, encoding_NC: Tensor, share: Sharing, *, fused: bool) -> ImageTokens:
        position_SNC = (value_SNC.detach() if fused else value_SNC) + encoding_NC
        return cls(
            value_SNC=value_SNC, position_SNC=position_SNC, encoding_NC=encoding_NC, share=share, fused=fused
        )

    def after(self, value_KRNC: Tensor) -> ImageTokens:
        """New values, one image for every prompt of every decoder."""
        k, r, n, c = value_KRNC.shape
        return ImageTokens.of(
            value_KRNC.view(k * r, n, c), self.encoding_NC, Sharing.none(k, r), fused=self.fused
        )


def linear(x_KRTC: Tensor, weight_KOC: Tensor, bias_KO: Tensor | None) -> Tensor:
    """K linear layers, each on its own decoder's rows: (K, R, T, C) -> (K, R, T, O)."""
    k, r, t, c = x_KRTC.shape
    if k == 1:  # whose gradients come in the weights' own layout
        bias_O = None if bias_KO is None else bias_KO.squeeze(0)
        return F.linear(x_KRTC, weight_KOC.squeeze(0), bias_O)
    rows = x_KRTC.reshape(k, r * t, c)
    weight = weight_KOC.transpose(1, 2)
    out = torch.bmm(rows, weight) if bias_KO is None else torch.baddbmm(bias_KO[:, None], rows, weight)
    return out.view(k, r, t, -1)


def _heads(x_KRTD: Tensor) -> Tensor:
    """(K, R, T, heads*d) -> (K, R, heads, T, d)."""
    return torch.unflatten(x_KRTD, -1, (HEADS, -1)).transpose(2, 3)


def _rows_per_head(weight_KOC: Tensor) -> Tensor:
    """(K, heads*d, C) -> (K, heads, d, C)."""
    return torch.unflatten(weight_KOC, 1, (HEADS, -1))


def _per_head(x_KRhTa: Tensor, weight_Khab: Tensor) -> Tensor:
    """Multiply every head's rows by its own matrix: (K, R, heads, T, a) x (K, heads, a, b)."""
    k, r, h, t, a = x_KRhTa.shape
    rows = x_KRhTa.transpose(1, 2).reshape(k * h, r * t, a)
    out = torch.bmm(rows, weight_Khab.reshape(k * h, a, -1))
    return out.view(k, h, r, t, -1).transpose(1, 2)


def key_bias(mask_KRT: Tensor, like: Tensor) -> Tensor:
    """0 where a token is real, -inf where it is padding, ready to be added to logits."""
    return torch.zeros_like(mask_KRT, dtype=like.dtype).masked_fill(~mask_KRT, -math.inf)


def self_attention(params: Params, qk_KRTC: Tensor, value_KRTC: Tensor, key_bias_KRT: Tensor) -> Tensor:
    """Attention among the tokens of a prompt, padding masked as keys."""
    q = _heads(linear(qk_KRTC, params["q_proj.weight"], params["q_proj.bias"]))
    k = _heads(linear(qk_KRTC, params["k_proj.weight"], None))
    v = _heads(linear(value_KRTC, params["v_proj.weight"], params["v_proj.bias"]))
    logits = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5) + key_bias_KRT[:, :, None, None, :]
    out = (torch.softmax(logits, -1) @ v).transpose(2, 3).flatten(3)
    return linear(out, params["out_proj.weight"], params["out_proj.bias"])


def token_to_image(params: Params, query_KRTC: Tensor, image: ImageTokens) -> tuple[Tensor, ImageTokens]:
    """Tokens attend to the image: (K, R, T, C), and the image for whoever reads it next (see fused.py)."""
    q = linear(query_KRTC, params["q_proj.weight"], params["q_proj.bias"])
    q = _heads(q * (q.shape[-1] // HEADS) ** -0.5)
    if query_KRTC.shape[2] < ABSORB_BELOW:
        out, image = _absorbed_to_image(params, q, image)
    else:
        out = _stock_to_image(params, q, image)
    return linear(out, params["out_proj.weight"], params["out_proj.bias"]), image


def _absorbed_to_image(params: Params, q_KRhTd: Tensor, image: ImageTokens) -> tuple[Tensor, ImageTokens]:
    *_, h, t, _ = q_KRhTd.shape
    columns = _per_head(q_KRhTd, _rows_per_head(params["k_proj.weight"]))
    columns = image.share.gather(columns.flatten(2, 3))
    if image.fused:
        seen, value_SNC = attend(columns, image.value_SNC, image.position_SNC)
        image = replace(image, value_SNC=value_SNC)
    else:
        logits = torch.bmm(columns, image.position_SNC.transpose(1, 2))
        seen = torch.bmm(torch.softmax(logits, -1), image.value_SNC)
    seen = torch.unflatten(image.share.scatter(seen), 2, (h, t))
    out = _per_head(seen, _rows_per_head(params["v_proj.weight"]).transpose(2, 3))
    return out.transpose(2, 3).flatten(3) + params["v_proj.bias"][:, None, None], image


def _stock_to_image(params: Params, q_KRhTd: Tensor, image: ImageTokens) -> Tensor:
    k = _heads(project_image(params["k_proj.weight"], image.position_SNC, image.share))
    v = _heads(project_image(params["v_proj.weight"], image.value_SNC, image.share))
    out = torch.softmax(q_KRhTd @ k.transpose(-1, -2), -1) @ v
    return out.transpose(2, 3).flatten(3) + params["v_proj.bias"][:, None, None]


def project_image(weight_KOC: Tensor, image_SNC: Tensor, share: Sharing) -> Tensor:
    """(K, R, N, O): the image side through every decoder's weights; one product where they share images."""
    k, o, c = weight_KOC.shape
    _, n, _ = image_SNC.shape
    rows = image_SNC.reshape(share.groups, share.images * n, c)
    columns = weight_KOC.reshape(share.groups, share.decoders * o, c).transpose(1, 2)
    out = torch.bmm(rows, columns).view(share.groups, share.images, 1, n, share.decoders, o)
    out = out.permute(0, 4, 1, 2, 3, 5).expand(-1, -1, -1, share.prompts, -1, -1)
    return out.reshape(k, share.images * share.prompts, n, o)


def image_to_token(
    params: Params,
    image: ImageTokens,
    tokens: tuple[Tensor, Tensor, Tensor],
    norm: tuple[Tensor, Tensor],
) -> ImageTokens:
    """The image attends to the tokens; residual and layer norm included. Samples are K*R then.

    ``tokens`` are keys (with the prompt's own encoding added), values, and the keys' bias (K, R, T); ``norm``
    are weight and bias (K, C).
    """
    key_KRTC, value_KRTC, key_bias_KRT = tokens
    k = _heads(linear(key_KRTC, params["k_proj.weight"], None))
    k = k * k.shape[-1] ** -0.5
    v = _heads(linear(value_KRTC, params["v_proj.weight"], params["v_proj.bias"]))
    if key_KRTC.shape[2] < ABSORB_BELOW:
        return _absorbed_to_token(params, image, (k, v, key_bias_KRT), norm)
    q = _heads(project_image(params["q_proj.weight"], image.position_SNC, image.share))
    q = q + torch.unflatten(params["q_proj.bias"], 1, (HEADS, 1, -1))[:, None]
    logits = q @ k.transpose(-1, -2) + key_bias_KRT[:, :, None, None]
    out = (torch.softmax(logits, -1) @ v).transpose(2, 3).flatten(3)
    out = linear(out, params["out_proj.weight"], params["out_proj.bias"])
    return image.after(layer_norm(image.share.spread(image.value_SNC) + out, *norm))


def _absorbed_to_token(
    params: Params,
    image: ImageTokens,
    tokens: tuple[Tensor, Tensor, Tensor],
    norm: tuple[Tensor, Tensor],
) -> ImageTokens:
    k, v, key_bias_KRT = tokens
    decoders, r, h, t, _ = k.shape
    share = image.share
    columns = share.gather(_per_head(k, _rows_per_head(params["q_proj.weight"])).flatten(2, 3))
    query_bias = torch.unflatten(params["q_proj.bias"], 1, (HEADS, -1))
    bias_KRhT = (k * query_bias[:, None, :, None]).sum(-1) + key_bias_KRT[:, :, None]
    # each head's attention sums to 1, so an eighth of the output bias in every row adds up to the bias
    rows = _per_head(v, torch.unflatten(params["out_proj.weight"], 2, (HEADS, -1)).permute(0, 2, 3, 1))
    rows = rows + (params["out_proj.bias"] / HEADS)[:, None, None, None]
    if image.fused:
        samples = len(columns)
        rows_SJxC = rows.reshape(samples, -1, h * t, rows.shape[-1])
        sides = (image.value_SNC, image.position_SNC, image.encoding_NC)
        one_norm = (norm[0].squeeze(0), norm[1].squeeze(0))
        value, position = update(columns, bias_KRhT.reshape(samples, -1), rows_SJxC, sides, one_norm, t)
        return replace(image, value_SNC=value, position_SNC=position, share=Sharing.none(decoders, r))
    # logits lie as (heads, T, N): the softmax over the few tokens then runs along N, in full vectors
    logits = share.scatter(torch.bmm(columns, image.position_SNC.transpose(1, 2)))
    logits = torch.unflatten(logits, 2, (h, t)) + bias_KRhT[..., None]
    attention = torch.softmax(logits, 3).flatten(2, 3).flatten(0, 1)
    rows = rows.reshape(decoders * r, h * t, -1)
    out = torch.baddbmm(share.spread(image.value_SNC).flatten(0, 1), attention.transpose(1, 2), rows)
    return image.after(layer_norm(out.view(decoders, r, *out.shape[1:]), *norm))
