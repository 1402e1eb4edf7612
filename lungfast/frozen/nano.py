"""``nano``: the embedded model that needs no download. It is not SAM, and has never seen a patient.

Comes in: ``nano.safetensors`` beside this file, checked against its sha256. Goes out: a small image encoder
(hybrid.py) with SAM's prompt encoder and mask decoder, trained together on generated X-rays by ``lungfast
pretrain``; MODEL_CARD.md beside it says how, and how well it does. Stored as float16, read as float32.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungfast.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor, nn

NANO_SHA256 = "6ad5f89ae834178ad2069f62ec3b71f415627440b794e03a9c0b72b4bd04580b"
NANO_PATH = Path(__file__).with_name("nano.safetensors")
RANDOM_NANO_SHA256 = "cecaaea745e0fbaa360a166291fc5b6b110d96856710eeac0d541e07ea351c3f"
"""The weights that earlier versions called nano: random, for an input of 512 px."""
_ROOMS = ("image_encoder", "prompt_encoder", "mask_decoder")


@dataclass(frozen=True, kw_only=True)
class HybridConfig:
    """Channels at 1/2, 1/4, 1/8 and 1/16 of the input, residual blocks at the last three, transformer blocks.

    ``fold`` is the side of the finest maps' cell that one token takes in: 2 gives input_size / 8 tokens a
    side, 1 gives input_size / 4.
    """

    input_size: int = 256
    widths: tuple[int, int, int, int] = (32, 64, 128, 192)
    blocks: tuple[int, int, int] = (2, 2, 1)
    layers: int = 3
    heads: int = 6
    fold: int = 2

    @property
    def grid(self) -> tuple[int, int]:
        """(Eh, Ew)."""
        side = self.input_size // (4 * self.fold)
        return side, side

    @property
    def fine_channels(self) -> int:
        """Of the finest maps' cells that one token takes in, together."""
        return self.fold**2 * self.widths[1]

    @property
    def low(self) -> int:
        """Side of the decoder's logits."""
        return 4 * self.grid[0]


NANO = HybridConfig()


def nano_image_encoder(config: HybridConfig = NANO, *, high_res: bool = False) -> nn.Module:
    """The architecture alone: (B, 3, S, S) normalised -> (B, 256, Eh, Ew), with ``high_res`` (B, 512, …)."""
    from lungfast.frozen.hybrid import HybridEncoder

    return HybridEncoder(config, high_res=high_res)


def nano_modules(config: HybridConfig = NANO) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Image encoder, prompt encoder and mask decoder, freshly initialised from torch's generator."""
    return nano_image_encoder(config), *sam_head_modules(config.grid, config.input_size)


def sam_head_modules(grid: tuple[int, int], input_size: int) -> tuple[nn.Module, nn.Module]:
    """segment-anything's (PromptEncoder, MaskDecoder) at SAM's sizes, freshly initialised."""
    from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

    prompt_encoder = PromptEncoder(
        embed_dim=256, image_embedding_size=grid, input_image_size=(input_size, input_size), mask_in_chans=16
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    return prompt_encoder, MaskDecoder(transformer_dim=256, transformer=transformer)


def nano_bytes(model: Any) -> bytes:
    """safetensors bytes of a model that has the three rooms, as float16."""
    import torch
    from safetensors.torch import save

    return save(
        {
            f"{room}.{name}": value.detach().to("cpu", torch.float16).contiguous()
            for room in _ROOMS
            for name, value in getattr(model, room).state_dict().items()
        }
    )


def read_nano(path: Path = NANO_PATH) -> dict[str, Tensor]:
    """The embedded weights as float32; CheckpointError where the file is missing or was changed."""
    import torch
    from safetensors.torch import load

    fix = "reinstall lungfast"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"cannot read the embedded encoder {path}", found=str(error.strerror), fix=fix
        ) from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != NANO_SHA256:
        raise CheckpointError(
            f"the embedded encoder {path} is damaged",
            found=f"sha256 {digest[:12]}…",
            expected=f"{NANO_SHA256[:12]}…",
            fix=fix,
        )
    return {name: value.to(torch.float32) for name, value in load(content).items()}
