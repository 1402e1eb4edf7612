"""The slow twin of the stack: segment-anything's own modules, image by image, one decoder after another.

MONAI's losses on each image's valid crop and torch.optim.Adam on the parameters the single-mask loss trains.
Nothing here is shared with lungfast.trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def sam_decoder(state: dict[str, Tensor] | None = None, *, seed: int = 0, scale: float = 1.0) -> nn.Module:
    """segment-anything's MaskDecoder as its builders make it, from ``seed`` or from ``state``."""
    from segment_anything.modeling import MaskDecoder, TwoWayTransformer

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
        decoder = MaskDecoder(
            num_multimask_outputs=3,
            transformer=transformer,
            transformer_dim=256,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        )
        if scale != 1.0:
            with torch.no_grad():
                for parameter in decoder.parameters():
                    parameter.add_(
                        torch.randn_like(parameter) * (scale - 1.0) * parameter.std().nan_to_num(0.1)
                    )
    if state is not None:
        decoder.load_state_dict(state)
    return decoder


def with_conv_s1(decoder: nn.Module, channels: int, *, seed: int) -> nn.Module:
    """The same reading high-resolution features, as SAM 2's decoder does: ``decoder.fine_1cYX`` (2Eh, 2Ew) of
    the image at hand is added to the first upscaled map."""
    convolution = nn.Conv2d(channels, 64, 1, bias=False)
    generator = torch.Generator().manual_seed(seed)
    convolution.weight.data = torch.randn(convolution.weight.shape, generator=generator) * 0.1
    decoder.conv_s1 = convolution
    decoder.output_upscaling[0].register_forward_hook(
        lambda module, arguments, out: out + decoder.conv_s1(decoder.fine_1cYX)
    )
    return decoder


def trained_parameters(decoder: nn.Module) -> list[nn.Parameter]:
    """What the twin optimises: no key bias, no unused head."""
    skipped = ("iou_prediction_head.", *(f"output_hypernetworks_mlps.{i}." for i in (1, 2, 3)))
    return [
        parameter
        for name, parameter in decoder.named_parameters()
        if not name.startswith(skipped) and not name.endswith("k_proj.bias")
    ]


def forward_image(
    decoder: nn.Module,
    feature_NC: Tensor,
    tokens_IPC: Tensor,
    mask_IP: Tensor,
    constants: tuple[Tensor, Tensor, tuple[int, int]],
) -> Tensor:
    """Logits (h, w) of one image: every prompt by itself without its padding, merged by the maximum.

    ``constants`` are the positional encoding (N, C), the dense embedding (C,) and the grid.
    """
    pe_NC, dense_C, grid = constants
    channels = len(dense_C)
    if hasattr(decoder, "conv_s1"):
        cells = feature_NC[:, channels:].reshape(*grid, 2, 2, -1).permute(4, 0, 2, 1, 3)
        decoder.fine_1cYX = cells.reshape(1, -1, 2 * grid[0], 2 * grid[1])
    merged = []
    for tokens_PC, mask_P in zip(tokens_IPC, mask_IP, strict=True):
        logits, _ = decoder(
            image_embeddings=feature_NC[:, :channels].T.reshape(1, -1, *grid),
            image_pe=pe_NC.T.reshape(1, -1, *grid),
            sparse_prompt_embeddings=tokens_PC[mask_P][None],
            dense_prompt_embeddings=dense_C.view(1, -1, 1, 1).expand(1, -1, *grid),
            multimask_output=False,
        )
        merged.append(logits[0, 0])
    return torch.stack(merged).amax(0)


def monai_loss(name: str, logits_hw: Tensor, target_hw: Tensor, valid_hw: Tensor) -> Tensor:
    """MONAI's loss of one sample on its valid rectangle (top left).

    In float64 MONAI's FocalLoss would round to float32 (it calls ``.float()``): call its function.
    """
    from monai.losses import DiceCELoss, DiceFocalLoss, DiceLoss
    from monai.losses.focal_loss import sigmoid_focal_loss

    rows, columns = int(valid_hw.any(1).sum()), int(valid_hw.any(0).sum())
    logits = logits_hw[None, None, :rows, :columns]
    target = target_hw[None, None, :rows, :columns].to(logits.dtype)
    if name == "dicece":
        return DiceCELoss(sigmoid=True)(logits, target)
    if logits.dtype == torch.float64:
        return DiceLoss(sigmoid=True)(logits, target) + sigmoid_focal_loss(logits, target).mean()
    return DiceFocalLoss(sigmoid=True)(logits, target)


class NaiveStack:
    """K segment-anything decoders with an Adam each; batches are ``lungfast.trained.batches.StackBatch``."""

    def __init__(
        self,
        decoders: Sequence[nn.Module],
        losses: Sequence[str],
        constants: tuple[Tensor, Tensor, tuple[int, int]],
    ) -> None:
        self.decoders, self.losses, self.constants = list(decoders), list(losses), constants
        self.dtype = constants[0].dtype
        self.optimisers = [torch.optim.Adam(trained_parameters(decoder)) for decoder in self.decoders]

    def logits(self, k: int, batch: Any) -> Tensor:
        """(B, h, w) of decoder k."""
        features_BNC = batch.features_GBNC[k % len(batch.features_GBNC)].to(self.dtype)
        images = zip(
            features_BNC, batch.tokens_KBIPC[k].to(self.dtype), batch.token_mask_KBIP[k], strict=True
        )
        return torch.stack([forward_image(self.decoders[k], *image, self.constants) for image in images])

    def losses_of(self, k: int, batch: Any, logits_Bhw: Tensor) -> Tensor:
        """(B,)."""
        group = k % len(batch.features_GBNC)
        triples = zip(logits_Bhw, batch.targets_GBhw[group], batch.valid_GBhw[group], strict=True)
        return torch.stack([monai_loss(self.losses[k], *triple) for triple in triples])

    def backward(self, k: int, batch: Any) -> float:
        """Leaves gradients of decoder k in its parameters' ``grad``; returns the weighted mean loss."""
        self.optimisers[k].zero_grad()
        weight_B = batch.weight_KB[k].to(self.dtype)
        loss = (self.losses_of(k, batch, self.logits(k, batch)) * weight_B).sum() / weight_B.sum()
        loss.backward()
        return float(loss.detach())

    def train(
        self, batch: Any, lr_K: Sequence[float], wd_K: Sequence[float], active_K: Sequence[bool]
    ) -> list[float]:
        """One step of the active decoders; losses, NaN for the others."""
        losses = [float("nan")] * len(self.decoders)
        for k, optimiser in enumerate(self.optimisers):
            if active_K[k]:
                optimiser.param_groups[0].update(lr=float(lr_K[k]), weight_decay=float(wd_K[k]))
                losses[k] = self.backward(k, batch)
                optimiser.step()
        return losses
