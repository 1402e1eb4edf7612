"""``nano``: the embedded image encoder that needs no download. It is not SAM and was never trained.

Comes in: one seed. Goes out: ``nano.safetensors`` beside this file, a small ViT (512 px, patch 16, 4 layers,
width 192, global attention, SAM's neck to 256 channels) with an untrained SAM prompt encoder and mask
decoder, all random. ``python -m lungfast.frozen.nano`` writes it again; :func:`read_nano` checks its sha256.

Why random weights are of use: the decoder is trained on top of them. Of 15 initialisations (patch filters:
torch's, 1/f, whitened; attention: torch's, wider, Gaussian around each token; neck: torch's, wider, near
identity; with or without positions), probed on 76 real X-rays (50 to fit, 26 to test), a two-layer probe per
token gave F1 0.916-0.929 and the best was torch's own initialisation plus Fourier positions, kept here.
Stored as float16 (13.7 MB), read as float32.
"""

from __future__ import annotations

import hashlib
import math
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lungfast.errors import CheckpointError
from lungfast.files import write_atomic

if TYPE_CHECKING:
    from torch import Tensor, nn

NANO_SEED = 20240527
NANO_SHA256 = "cecaaea745e0fbaa360a166291fc5b6b110d96856710eeac0d541e07ea351c3f"
NANO_PATH = Path(__file__).with_name("nano.safetensors")
NANO_INPUT_SIZE = 512
NANO_GRID = (32, 32)
_WIDTH, _LAYERS, _HEADS = 192, 4, 6
_POSITION_SCALE = 0.5  # torch's patch projection has a standard deviation of about 0.6 on X-rays


def nano_image_encoder() -> nn.Module:
    """The architecture alone: (B, 3, 512, 512) normalised -> (B, 256, 32, 32)."""
    from segment_anything.modeling import ImageEncoderViT
    from torch import nn

    module: nn.Module = ImageEncoderViT(
        img_size=NANO_INPUT_SIZE,
        patch_size=NANO_INPUT_SIZE // NANO_GRID[0],
        embed_dim=_WIDTH,
        depth=_LAYERS,
        num_heads=_HEADS,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        out_chans=256,
    )
    return module


def sam_head_modules(grid: tuple[int, int], input_size: int) -> tuple[nn.Module, nn.Module]:
    """segment-anything's (PromptEncoder, MaskDecoder) at SAM's sizes, freshly initialised."""
    from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

    prompt_encoder = PromptEncoder(
        embed_dim=256, image_embedding_size=grid, input_image_size=(input_size, input_size), mask_in_chans=16
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    return prompt_encoder, MaskDecoder(transformer_dim=256, transformer=transformer)


def build_nano(seed: int = NANO_SEED) -> dict[str, Tensor]:
    """The float16 state dict with ``image_encoder.*``, ``prompt_encoder.*`` and ``mask_decoder.*``."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = nano_image_encoder()
        prompt_encoder, mask_decoder = sam_head_modules(NANO_GRID, NANO_INPUT_SIZE)
        encoder.get_parameter("pos_embed").data.copy_(_fourier_positions())
    rooms = {"image_encoder": encoder, "prompt_encoder": prompt_encoder, "mask_decoder": mask_decoder}
    return {
        f"{room}.{name}": value.detach().to(torch.float16).contiguous()
        for room, module in rooms.items()
        for name, value in module.state_dict().items()
    }


def _fourier_positions() -> Tensor:
    """(1, Eh, Ew, C) sines and cosines of random frequencies, as SAM's own positional encoding."""
    import torch

    height, width = NANO_GRID
    y = (torch.arange(height) + 0.5) / height * 2 - 1
    x = (torch.arange(width) + 0.5) / width * 2 - 1
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
    phase = math.pi * (grid @ torch.randn(2, _WIDTH // 2))
    return _POSITION_SCALE * torch.cat([phase.sin(), phase.cos()], dim=-1)[None]


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


def main() -> None:
    from safetensors.torch import save

    content = save(build_nano())
    write_atomic(NANO_PATH, content)
    digest = hashlib.sha256(content).hexdigest()
    sys.stdout.write(f"{NANO_PATH} {len(content)} bytes sha256 {digest}\n")


if __name__ == "__main__":
    main()
