"""Training of a whole promptable model: image encoder, prompt encoder and mask decoder together, as SAM's.

Comes in: modules with segment-anything's interfaces and a batch of images, prompts and soft masks. Goes out:
a loss and its parts. segment-anything's decoder takes one image a call; here the same modules take a batch.
Besides the prompted mask, a linear head reads every structure straight from the embeddings: its gradient
reaches the encoder for all structures of every image, and what a line can read a decoder learns quickly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

DENSE_WEIGHT, MULTIMASK_WEIGHT, IOU_WEIGHT = 1.0, 0.2, 0.1


@dataclass(frozen=True, kw_only=True)
class PromptableBatch:
    """``points_BP2`` in input pixels, ``labels_BP`` 1, 0, 2 and 3 (corners) or -1 (none); masks are shares of
    a low-resolution cell in 0..1; ``valid_Bhw`` is False on padding."""

    images_B3SS: Tensor
    points_BP2: Tensor
    labels_BP: Tensor
    target_Bhw: Tensor
    structures_BShw: Tensor
    valid_Bhw: Tensor


class PromptableModel(nn.Module):
    """``image_encoder``, ``prompt_encoder`` and ``mask_decoder`` under SAM's names, and the dense head."""

    def __init__(
        self, image_encoder: nn.Module, prompt_encoder: nn.Module, mask_decoder: nn.Module, structures: int
    ) -> None:
        super().__init__()
        self.image_encoder, self.prompt_encoder = image_encoder, prompt_encoder
        self.mask_decoder = mask_decoder
        self.dense_head = nn.Conv2d(256, structures * 16, 1)

    def forward(self, batch: PromptableBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, 4, h, w) of SAM's masks, their predicted IoU (B, 4), structures' logits (B, S, h, w).

        Prompts may be those of the first images only, whose masks and IoU then come out: the decoder's step
        on an image costs as much as the encoder's.
        """
        embeddings_BCEE = self.image_encoder(batch.images_B3SS)
        dense_BShw = F.pixel_shuffle(self.dense_head(embeddings_BCEE), 4)
        tokens_BPC = prompt_tokens(self.prompt_encoder, batch.points_BP2, batch.labels_BP)
        prompted = embeddings_BCEE[: len(tokens_BPC)]
        masks_BMhw, iou_BM = decode(self.mask_decoder, self.prompt_encoder, prompted, tokens_BPC)
        return masks_BMhw.float(), iou_BM.float(), dense_BShw.float()


def prompt_tokens(encoder: Any, points_BP2: Tensor, labels_BP: Tensor) -> Tensor:
    """segment-anything's sparse embeddings of points and corners together, (B, P, C)."""
    size = encoder.input_image_size
    tokens_BPC = encoder.pe_layer.forward_with_coords(points_BP2 + 0.5, size)
    kinds = torch.cat([encoder.not_a_point_embed.weight, *(one.weight for one in encoder.point_embeddings)])
    is_point_BP1 = (labels_BP >= 0)[..., None]
    placed_BPC: Tensor = torch.where(is_point_BP1, tokens_BPC, 0.0) + kinds[labels_BP + 1]
    return placed_BPC


def decode(decoder: Any, encoder: Any, embeddings_BCEE: Tensor, tokens_BPC: Tensor) -> tuple[Tensor, Tensor]:
    """segment-anything's ``MaskDecoder.predict_masks`` for B images with one prompt each."""
    batch = len(embeddings_BCEE)
    dtype = embeddings_BCEE.dtype
    output_TC = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens_BTC = torch.cat([output_TC.expand(batch, -1, -1), tokens_BPC.to(dtype)], dim=1)
    image_BCEE = embeddings_BCEE + encoder.no_mask_embed.weight.view(1, -1, 1, 1)
    positions_BCEE = encoder.pe_layer(embeddings_BCEE.shape[2:])[None].to(dtype).expand(batch, -1, -1, -1)
    hidden_BTC, rows_BNC = decoder.transformer(image_BCEE, positions_BCEE, tokens_BTC)
    maps = decoder.output_upscaling(rows_BNC.transpose(1, 2).unflatten(2, embeddings_BCEE.shape[2:]))
    weights_BMC = torch.stack(
        [mlp(hidden_BTC[:, 1 + m]) for m, mlp in enumerate(decoder.output_hypernetworks_mlps)], dim=1
    )
    masks_BMhw = (weights_BMC @ maps.flatten(2)).unflatten(2, maps.shape[2:])
    return masks_BMhw, decoder.iou_prediction_head(hidden_BTC[:, 0])


def promptable_loss(
    batch: PromptableBatch, masks_BMhw: Tensor, iou_BM: Tensor, dense_BShw: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Dice + cross-entropy of the single mask, of the best of the other three and of every structure, and
    the squared error of the predicted IoU; also the parts, and the single mask's Dice at 0.5."""
    valid, prompted = batch.valid_Bhw, batch.valid_Bhw[: len(masks_BMhw)]
    losses_BM = dice_and_entropy(masks_BMhw, batch.target_Bhw[:, None], prompted[:, None])
    main, best = losses_BM[:, 0].mean(), losses_BM[:, 1:].amin(dim=1).mean()
    dense = dice_and_entropy(dense_BShw, batch.structures_BShw, valid[:, None]).mean()
    with torch.no_grad():
        found, true = (masks_BMhw > 0) & prompted[:, None], (batch.target_Bhw > 0.5)[:, None]
        both = (found & true).sum(dim=(2, 3)).float()
        total = found.sum(dim=(2, 3)) + true.sum(dim=(2, 3))
        dice_BM = 2 * both / total.clamp(min=1)
    iou = F.mse_loss(iou_BM, dice_BM / (2 - dice_BM))
    loss = main + DENSE_WEIGHT * dense + MULTIMASK_WEIGHT * best + IOU_WEIGHT * iou
    parts = {
        "mask": main,
        "structures": dense,
        "best_of_three": best,
        "iou": iou,
        "dice": dice_BM[:, 0].mean(),
    }
    return loss, {name: float(value.detach()) for name, value in parts.items()}


def dice_and_entropy(logits_BMhw: Tensor, target_BMhw: Tensor, valid_BMhw: Tensor) -> Tensor:
    """Soft Dice loss + binary cross-entropy of each map over its valid cells, (B, M)."""
    target_BMhw = target_BMhw.expand_as(logits_BMhw)
    weight = valid_BMhw.to(logits_BMhw.dtype)
    area = weight.sum(dim=(2, 3))
    target_BMhw, probs_BMhw = target_BMhw * weight, logits_BMhw.sigmoid() * weight
    entropy_BM = _sum(F.softplus(logits_BMhw) * weight) - _product(logits_BMhw, target_BMhw)
    total_BM = _sum(probs_BMhw) + _sum(target_BMhw)
    dice_BM = 1 - (2 * _product(probs_BMhw, target_BMhw) + 1) / (total_BM + 1)
    return entropy_BM / area + dice_BM


def _sum(maps_BMhw: Tensor) -> Tensor:
    return maps_BMhw.sum(dim=(2, 3))


def _product(a_BMhw: Tensor, b_BMhw: Tensor) -> Tensor:
    """The sum of products, without the products in memory."""
    return torch.einsum("bmhw,bmhw->bm", a_BMhw, b_BMhw)
