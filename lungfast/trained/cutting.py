"""How a step is cut: how many images and decoders make a piece, and which images each piece takes.

Comes in: sizes of a batch and of one activation, the device. Goes out: a piece's size, and rows with their
shares of the loss. All pieces of a run have one shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

CPU_PIECE_BYTES = 8 << 20
"""One (image tokens, C) activation of a piece on a CPU: 2 images of SAM's size in fp32, 4 in bf16, 8 or 16 of
32x32 tokens. Half of it costs 3 % (more passes over the weights' gradients), twice 8 % (out of the cache)."""
CUDA_PIECE_BYTES = 256 << 20
"""The same on a GPU, where launches cost more than memory: 64 images of SAM's size in fp32."""


def piece_size(
    n_bytes: int, decoders_and_images: Sequence[int], device: torch.device, micro_batch: int | None
) -> tuple[int, int]:
    """(images, decoders) of a piece; ``n_bytes`` is one (image tokens, C) activation of one image.

    On a CPU one decoder: its fused kernels take one set of weights. ``micro_batch`` overrules the images.
    """
    on_cpu, (n_decoders, n_images) = device.type == "cpu", decoders_and_images
    most = max(1, (CPU_PIECE_BYTES if on_cpu else _cuda_piece_bytes(device)) // n_bytes)
    images = min(n_images, micro_batch or most)
    return images, 1 if on_cpu else max(1, min(n_decoders, most // images))


def _cuda_piece_bytes(device: torch.device) -> int:
    """Less on small GPUs: activations are some fifty times as large."""
    return min(CUDA_PIECE_BYTES, torch.cuda.get_device_properties(device).total_memory // 200)


def slices(n: int, size: int) -> list[slice]:
    """0 to n in steps of ``size``; the last one may be shorter."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def image_pieces(share_KB: Tensor, size: int) -> Iterator[tuple[slice, Tensor]]:
    """Rows of equally large pieces and their shares; what the last piece repeats weighs 0."""
    n_images = share_KB.shape[1]
    for first in range(0, n_images, size):
        start = min(first, n_images - size)
        part_KB = share_KB[:, start : start + size].clone()
        part_KB[:, : first - start] = 0
        yield slice(start, start + size), part_KB
