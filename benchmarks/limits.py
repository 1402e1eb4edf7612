"""What the machine allows a training step and an encoder: the larger of arithmetic and bytes, measured rates.

Comes in: sizes. Goes out: seconds. Only what no method can leave out is counted, so it is a floor.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from benchmarks.common import measure_copy_rate, measure_device_copy_rate, measure_matmul_rate
from lungfast.compute import cpu_has_bf16
from lungfast.records import PrecisionName

OUTPUT_TOKENS, HEADS, CHANNELS, INNER = 5, 8, 256, 128
DTYPES: dict[PrecisionName, str] = {"fp32": "float32", "bf16": "bfloat16"}
STEP_PARAMETERS = 3_505_216
"""Of the decoder's 4,058,340, what the loss reaches."""


def precisions(device: str = "cpu") -> tuple[PrecisionName, ...]:
    """What is measured: without instructions for bf16 a CPU takes minutes over what are seconds in fp32."""
    return tuple(DTYPES) if device != "cpu" or cpu_has_bf16() else ("fp32",)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """FLOP/s of a matrix product by precision, bytes/s copied."""

    products: dict[PrecisionName, float]
    copied: float

    @classmethod
    def measured(
        cls, device: str = "cpu", among: Iterable[PrecisionName] = (), *, quick: bool = False
    ) -> Rates:
        """Of the :func:`precisions` of this device, if ``among`` names no others."""
        on_cpu = device == "cpu"
        side, n_bytes = (64, 1 << 20) if quick else (2048, 256 << 20) if on_cpu else (8192, 4 << 30)
        products = {
            name: measure_matmul_rate(DTYPES[name], side=side, device=device)
            for name in among or precisions(device)
        }
        copied = measure_copy_rate(n_bytes) if on_cpu else measure_device_copy_rate(device, n_bytes)
        return cls(products=products, copied=copied)


@dataclass(frozen=True, kw_only=True)
class Step:
    """A batch's forward, loss, backward and Adam of one decoder."""

    side: int
    """Image tokens a side."""
    n_images: int
    prompt_tokens: int

    @property
    def flop(self) -> float:
        """Of an image: products of the image side.

        In multiply-adds per image token: two blocks of attention both ways, each either through 8 heads x T
        columns (keys and values absorbed into the tokens) or through projections to 128 channels; the final
        attention's one mask token; the upscaling's 256*256 + 4*64*128 and the masks' 16*32. The backward
        pass costs twice that, less the image's own gradients in the first block.
        """
        tokens = OUTPUT_TOKENS + self.prompt_tokens
        absorbed = 4 * CHANNELS * HEADS * tokens
        projected = 4 * CHANNELS * INNER + 4 * INNER * tokens
        final = 2 * CHANNELS * HEADS
        forward = 2 * min(absorbed, projected) + final + CHANNELS * CHANNELS + 4 * 64 * 128 + 16 * 32
        spared = 3 * CHANNELS * min(HEADS * tokens, INNER)
        return 2 * self.side**2 * (3 * forward - spared)

    @property
    def bytes(self) -> float:
        """Of an image: its float16 embedding, once, and its share of Adam's weights, moments, gradients."""
        return self.side**2 * CHANNELS * 2 + STEP_PARAMETERS * 4 * 7 / self.n_images

    def seconds(self, rates: Rates, precision: PrecisionName) -> tuple[float, float]:
        """An image's arithmetic, and its bytes."""
        return self.flop / rates.products[precision], self.bytes / rates.copied

    def limit(self, rates: Rates, precision: PrecisionName) -> float:
        return max(self.seconds(rates, precision))


def encoder_flop(vit: Any) -> float:
    """Of an image through an ``ImageEncoderViT``: its linear layers and attention, no window's padding.

    A token attends to a whole window (14x14) or to all tokens, and asks every row and column of them for
    its relative position. FACTS of SAM with the padding: 0.97 TFLOP for vit_b, 5.95 for vit_h.
    """
    patch = vit.patch_embed.proj
    side = vit.img_size // patch.kernel_size[0]
    n_tokens, width = side * side, patch.out_channels
    multiplied = n_tokens * patch.weight.numel()
    for block in vit.blocks:
        linear = sum(layer.weight.numel() for layer in _linear_layers(block))
        extent = block.window_size or side
        relative = 2 * extent * width if block.attn.use_rel_pos else 0
        multiplied += n_tokens * (linear + 2 * extent**2 * width + relative)
    narrow, _, spatial, _ = vit.neck
    multiplied += n_tokens * (narrow.weight.numel() + spatial.weight.numel())
    return 2.0 * float(multiplied)


def _linear_layers(block: Any) -> tuple[Any, ...]:
    return block.attn.qkv, block.attn.proj, block.mlp.lin1, block.mlp.lin2
