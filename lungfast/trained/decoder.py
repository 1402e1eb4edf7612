"""segment-anything's MaskDecoder for K decoders and B images at once; the same function of the same weights.

Comes in: state dicts with segment-anything's names, image embeddings, prompt tokens. Goes out: low-resolution
logits of the single mask (``multimask_output=False``), and state dicts that load back unchanged. Decoders
that read high-resolution features have SAM 2's ``conv_s1.weight`` beside them (upscaling.py).

What is left out because the mask does not depend on it: the IoU head, the hypernetworks of the other masks,
and in the last attention all tokens but the mask's. The two transposed convolutions (kernel 2, stride 2) are
matrix products per image token, 256 -> 4*64 and 64 -> 4*32; pixels come out token by token
(``parameters.to_token_major``; upscaling.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from lungfast.records import Size
from lungfast.trained.attention import (
    ABSORB_BELOW,
    ImageTokens,
    Params,
    Scope,
    image_to_token,
    key_bias,
    linear,
    self_attention,
    token_to_image,
)
from lungfast.trained.cutting import slices
from lungfast.trained.inputs import Constants, Inputs
from lungfast.trained.norms import layer_norm, wide_dtype
from lungfast.trained.parameters import HIGH_RES, MASK_TOKEN, OUTPUT_TOKENS, Layout, from_token_major
from lungfast.trained.pixels import LossOf
from lungfast.trained.upscaling import mask_logits, mask_losses
from lungfast.workers import Workers

INFERENCE_TOKENS = 16384
"""Image tokens of one pass without gradients: 4 images of SAM's size, 16 of 32x32 tokens."""
_BLOCKS = 2  # of every published SAM decoder


def decode(params: Params, inputs: Inputs) -> Tensor:
    """Logits of K decoders, (K, B, N*16) with pixels token by token, merged over prompts by the maximum.

    Computes in the dtype of ``params``; the result is at least float32.
    """
    image_KRNC, hyper_KRc = _transform(params, inputs)
    logits_KRX = mask_logits(params, image_KRNC, hyper_KRc, inputs.fine, fused=inputs.fused)
    k, r, x = logits_KRX.shape
    images = inputs.tokens_KBIPC.shape[1]
    logits_KBIX = logits_KRX.view(k, images, r // images, x)
    merged = logits_KBIX[:, :, 0] if r == images else logits_KBIX.amax(2)
    return merged.to(wide_dtype(merged))


def decode_losses(params: Params, inputs: Inputs, loss_of: LossOf) -> Tensor:
    """Losses (B,) of ``fused`` inputs with one prompt an image; see :func:`pixels.pixel_loss`."""
    return mask_losses(params, *_transform(params, inputs), inputs.fine, loss_of)


def _transform(params: Params, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The two-way transformer: image tokens (K, R, N, C), and the mask token's hypernetwork (K, R, C/8)."""
    tokens, bias = _all_tokens(params, inputs)
    k, r, *_ = tokens.shape
    groups, images, n, c = inputs.image_GBNC.shape
    # position-only gradients are folded into the image's where the absorbed kernels take both
    fused = inputs.fused and tokens.shape[2] < ABSORB_BELOW
    value = inputs.image_GBNC.reshape(groups * images, n, c)
    image = ImageTokens.of(value, inputs.encoding_NC, inputs.share, fused=fused)
    queries = tokens
    for block in range(_BLOCKS):
        scope = Scope(params, f"transformer.layers.{block}.")
        queries, image = _block(scope, (queries, tokens, bias), image)
    # only the mask token's result is used, and a query's result does not depend on the other queries
    used = slice(1 + MASK_TOKEN, 2 + MASK_TOKEN)
    scope = Scope(params, "transformer.final_attn_token_to_image.")
    attended, image = token_to_image(scope, (queries + tokens)[:, :, used], image)
    mask_KR1C = _norm(params, "transformer.norm_final_attn", queries[:, :, used] + attended)
    hyper_KR1c = _hypernetwork(Scope(params, f"output_hypernetworks_mlps.{MASK_TOKEN}."), mask_KR1C)
    return image.value_SNC.view(k, r, n, c), hyper_KR1c.flatten(2)


def _all_tokens(params: Params, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Output and prompt tokens (K, R, T, C), and the attention bias of padding (K, R, T)."""
    k, b, i, p, c = inputs.tokens_KBIPC.shape
    output_KOC = torch.cat([params["iou_token.weight"], params["mask_tokens.weight"]], 1)
    # padding may hold anything, also NaN: 0 * NaN would come through the attention's zero weights
    prompt = inputs.tokens_KBIPC.masked_fill(~inputs.mask_KBIP[..., None], 0.0).view(k, b * i, p, c)
    tokens = torch.cat([output_KOC[:, None].expand(k, b * i, -1, c), prompt], 2)
    real = F.pad(inputs.mask_KBIP.reshape(k, b * i, p), (OUTPUT_TOKENS, 0), value=True)
    return tokens, key_bias(real, tokens)


def _block(
    params: Params, tokens: tuple[Tensor, Tensor, Tensor], image: ImageTokens
) -> tuple[Tensor, ImageTokens]:
    """segment-anything's TwoWayAttentionBlock; the first block takes no positional encoding in step 1.

    ``tokens`` are the queries, their encoding (the first tokens) and the key bias.
    """
    queries, encoding, bias = tokens
    attention = Scope(params, "self_attn.")
    if queries is encoding:
        queries = self_attention(attention, queries, queries, bias)
    else:
        queries = queries + self_attention(attention, queries + encoding, queries, bias)
    queries = _norm(params, "norm1", queries)
    cross = Scope(params, "cross_attn_token_to_image.")
    seen, image = token_to_image(cross, queries + encoding, image)
    queries = _norm(params, "norm2", queries + seen)
    hidden = linear(queries, params["mlp.lin1.weight"], params["mlp.lin1.bias"]).relu()
    queries = queries + linear(hidden, params["mlp.lin2.weight"], params["mlp.lin2.bias"])
    queries = _norm(params, "norm3", queries)
    cross = Scope(params, "cross_attn_image_to_token.")
    norm = (params["norm4.weight"], params["norm4.bias"])
    return queries, image_to_token(cross, image, (queries + encoding, queries, bias), norm)


def _norm(params: Params, name: str, x_KC: Tensor, eps: float = 1e-5) -> Tensor:
    return layer_norm(x_KC, params[name + ".weight"], params[name + ".bias"], eps)


def _hypernetwork(params: Params, token_KR1C: Tensor) -> Tensor:
    """The three-layer perceptron that turns the mask token into the weights of the last product."""
    hidden = linear(token_KR1C, params["layers.0.weight"], params["layers.0.bias"]).relu()
    hidden = linear(hidden, params["layers.1.weight"], params["layers.1.bias"]).relu()
    return linear(hidden, params["layers.2.weight"], params["layers.2.bias"])


Sides = tuple[Tensor, Tensor | None]
"""Image tokens with the dense prompt added, and high-resolution features where the decoders read them."""


class DecoderStack:
    """K decoders with common frozen constants: parameters only, no optimiser and no choice of precision.

    ``flat_KL`` holds the trained parameters, a decoder a row (see :class:`Layout`); ``parameters`` are views
    into it under segment-anything's names.
    """

    def __init__(
        self, states_K: Sequence[Mapping[str, Tensor]], flat_KL: Tensor, layout: Layout, constants: Constants
    ) -> None:
        self.layout = layout
        self.flat_KL = flat_KL
        self.constants = constants
        self._states_K = [dict(state) for state in states_K]
        self.parameters = layout.views(flat_KL)

    @classmethod
    def from_states(
        cls,
        states_K: Sequence[Mapping[str, Tensor]],
        *,
        pe_NC: Tensor,
        dense_C: Tensor,
        grid: Size,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> DecoderStack:
        """A stack from K ``MaskDecoder`` state dicts (they may be one object; they are copied).

        ``pe_NC`` is the prompt encoder's dense positional encoding, ``dense_C`` its "no mask" embedding.
        Raises CheckpointError where a state is not a mask decoder's or differs in shape from the first.
        """
        layout = Layout.of(states_K[0])
        flat_KL = torch.zeros(len(states_K), layout.length, device=device, dtype=dtype)
        for row_L, state in zip(flat_KL, states_K, strict=True):
            layout.pack(state, row_L)
        constants = Constants(
            encoding_NC=pe_NC.to(device, dtype), dense_C=dense_C.to(device, dtype).view(-1), grid=grid
        )
        return cls(states_K, flat_KL, layout, constants)

    @property
    def K(self) -> int:
        return int(self.flat_KL.shape[0])

    def sides(self, features_GBNC: Tensor, dtype: torch.dtype, made_GBNC: Tensor | None = None) -> Sides:
        """Of some images; image tokens that were ``made`` before are taken as they are."""
        image_GBNC = self.constants.image(features_GBNC, dtype) if made_GBNC is None else made_GBNC
        return image_GBNC, self.fine(features_GBNC, dtype)

    def fine(self, features_GBNC: Tensor, dtype: torch.dtype) -> Tensor | None:
        """(G, B, N, F) where these decoders read high-resolution features; CheckpointError where there are
        none."""
        return self.constants.fine(features_GBNC, dtype) if HIGH_RES in self.layout.shapes else None

    def state_dict(self, k: int) -> dict[str, Tensor]:
        """Decoder k under segment-anything's names, float32 on the CPU; what is not trained as it came."""
        trained = self.layout.unpack(self.flat_KL[k])
        return {
            name: trained[name] if name in trained else value.detach().to("cpu", torch.float32, copy=True)
            for name, value in self._states_K[k].items()
        }

    def load(self, k: int, state: Mapping[str, Tensor]) -> None:
        """Put a state (say, the best epoch's) into decoder k, with what is not trained in it."""
        self.layout.pack(state, self.flat_KL[k])
        self._states_K[k] = dict(state)

    @torch.no_grad()
    def logits(
        self,
        features_GBNC: Tensor,
        tokens_KBIPC: Tensor,
        token_mask_KBIP: Tensor,
        *,
        active: Sequence[int] | None = None,
    ) -> Tensor:
        """Logits (K, B, h, w), merged over prompts by the maximum, in the stack's own dtype (float32).

        ``active`` computes a subset: the result then has its rows, and only theirs; features with G = K and
        tokens are those of all K decoders.
        """
        chosen = range(self.K) if active is None else active
        n_images, dtype = features_GBNC.shape[1], self.flat_KL.dtype
        workers = Workers.of(self.flat_KL.device)
        fit = max(1, INFERENCE_TOKENS // features_GBNC.shape[2])
        step = min(fit, -(-n_images * len(chosen) // workers.n))  # something for every worker
        parts = slices(n_images, step)
        is_shared = features_GBNC.shape[0] == 1
        shared = [self.sides(features_GBNC[:, part], dtype) for part in parts if is_shared]
        height, width = self.constants.grid
        logits = self.flat_KL.new_empty(len(chosen), n_images, 4 * height, 4 * width)

        @torch.inference_mode()  # as a caller's may be: without it a worker could not write into its tensor
        def run(job: tuple[int, int]) -> None:
            row, p = job
            one, part = slice(chosen[row], chosen[row] + 1), parts[p]
            image, fine = shared[p] if is_shared else self.sides(features_GBNC[one, part], dtype)
            inputs = Inputs(
                image_GBNC=image,
                fine_GBNF=fine,
                encoding_NC=self.constants.encoding_NC,
                tokens_KBIPC=tokens_KBIPC[one, part].to(dtype),
                mask_KBIP=token_mask_KBIP[one, part],
                fused=image.device.type == "cpu",
            )
            pixels = decode(self.layout.views(self.flat_KL[one]), inputs)
            logits[row, part] = from_token_major(pixels[0], self.constants.grid)

        workers.map(run, list(product(range(len(chosen)), range(len(parts)))))
        return logits
