"""The slow twin of the stack: segment-anything's own modules, image by image, one decoder after another.

MONAI's losses on each image's valid crop and torch.optim.Adam on the parameters the single-mask loss trains.
Nothing here is shared with lungfast.trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def sam_decoder(state: dict[str, Tensor] | None = None, *, seed: int = 0, scale: float = 1.0) -> nn.Module:
    """segment-anything's MaskDecoder as its builders make it; weights drawn from ``seed`` or from ``state``."""
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


def trained_parameters(decoder: nn.Module) -> list[nn.Parameter]:
    """What the twin optimises: no key bias, no unused head."""
    skipped = ("iou_prediction_head.", *(f"output_hypernetworks_mlps.{i}." for i in (1, 2, 3)))
    return [
        parameter
        for name, parameter in decoder.named_parameters()
        if not name.startswith(skipped) and not name.endswith("k_proj.bias")
    ]


def forward_image(
    decoder: nn.Module, feature_NC: Tensor, tokens_IPC: Tensor, mask_IP: Tensor, pe_NC: Tensor, dense_C: Tensor,
    grid: tuple[int, int],
) -> Tensor:  # fmt: skip
    """Logits (h, w) of one image: every prompt by itself without its padding, merged by the maximum."""
    to_map = lambda x_NC: x_NC.T.reshape(1, -1, *grid)  # noqa: E731
    merged = []
    for tokens_PC, mask_P in zip(tokens_IPC, mask_IP, strict=True):
        logits, _ = decoder(
            image_embeddings=to_map(feature_NC),
            image_pe=to_map(pe_NC),
            sparse_prompt_embeddings=tokens_PC[mask_P][None],
            dense_prompt_embeddings=dense_C.view(1, -1, 1, 1).expand(1, -1, *grid),
            multimask_output=False,
        )
        merged.append(logits[0, 0])
    return torch.stack(merged).amax(0)


def monai_loss(name: str, logits_hw: Tensor, target_hw: Tensor, valid_hw: Tensor) -> Tensor:
    """MONAI's loss of one sample on its valid rectangle (top left).

    In float64 MONAI's FocalLoss would round to float32 (it calls ``.float()``), so its own function is called.
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
    """K segment-anything decoders with an Adam each."""

    def __init__(
        self,
        decoders: Sequence[nn.Module],
        losses: Sequence[str],
        constants: tuple[Tensor, Tensor, tuple[int, int]],
    ) -> None:
        self.decoders, self.losses = list(decoders), list(losses)
        self.pe_NC, self.dense_C, self.grid = constants
        self.optimisers = [torch.optim.Adam(trained_parameters(decoder)) for decoder in self.decoders]

    def logits(self, k: int, batch) -> Tensor:  # type: ignore[no-untyped-def]
        group = k if batch.features_GBNC.shape[0] > 1 else 0
        dtype = self.pe_NC.dtype
        return torch.stack(
            [
                forward_image(
                    self.decoders[k], feature_NC.to(dtype), tokens_IPC.to(dtype), mask_IP,
                    self.pe_NC, self.dense_C, self.grid,
                )
                for feature_NC, tokens_IPC, mask_IP in zip(
                    batch.features_GBNC[group], batch.tokens_KBIPC[k], batch.token_mask_KBIP[k], strict=True
                )
            ]
        )  # fmt: skip

    def losses_of(self, k: int, batch, logits_Bhw: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        group = k if batch.features_GBNC.shape[0] > 1 else 0
        triples = zip(logits_Bhw, batch.targets_GBhw[group], batch.valid_GBhw[group], strict=True)
        return torch.stack([monai_loss(self.losses[k], *triple) for triple in triples])

    def backward(self, k: int, batch) -> float:  # type: ignore[no-untyped-def]
        """Gradients of decoder k in its parameters' ``grad``; returns the weighted mean loss."""
        self.optimisers[k].zero_grad()
        weight_B = batch.weight_KB[k].to(self.pe_NC.dtype)
        loss = (self.losses_of(k, batch, self.logits(k, batch)) * weight_B).sum() / weight_B.sum()
        loss.backward()
        return float(loss.detach())

    def train(self, batch, lr_K, wd_K, active_K) -> list[float]:  # type: ignore[no-untyped-def]
        losses = [float("nan")] * len(self.decoders)
        for k, optimiser in enumerate(self.optimisers):
            if active_K[k]:
                optimiser.param_groups[0].update(lr=float(lr_K[k]), weight_decay=float(wd_K[k]))
                losses[k] = self.backward(k, batch)
                optimiser.step()
        return losses
