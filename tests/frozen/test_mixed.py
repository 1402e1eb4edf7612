"""The encoder in reduced precision is the stock function: exact in float32, nearer than autocast in bf16."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn

from lungfast.frozen import attention, mixed, mixed_blocks, passes
from lungfast.frozen.mixed import MixedEncoder

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def vit(size: int, *, relative: bool = True, window: int = 14, width: int = 64) -> ImageEncoderViT:
    """Narrow, with one windowed and one global block; every weight drawn, biases not zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = ImageEncoderViT(
            img_size=size,
            embed_dim=width,
            depth=2,
            num_heads=4,
            out_chans=32,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=relative,
            window_size=window,
            global_attn_indexes=(1,),
        )
        for parameter in encoder.parameters():
            parameter.data.normal_(0.2, 0.1 if parameter.dim() > 1 else 0.3)
    return encoder.eval().requires_grad_(False)


def images(size: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def error(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


@pytest.mark.parametrize(
    ("size", "options"),
    [(256, {}), (320, {}), (224, {}), (256, {"relative": False}), (256, {"window": 5})],
    ids=["padded", "two windows and a part", "one whole window", "no relative positions", "small windows"],
)
def test_equals_stock_in_float32(size: int, options: dict[str, int]) -> None:
    stock = vit(size, **options)  # type: ignore[arg-type]
    with torch.inference_mode():
        exact = stock(images(size))
        found = MixedEncoder(stock, torch.float32)(images(size))
    assert found.shape == exact.shape
    assert error(found, exact) < 1e-5


@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("options", [{}, {"relative": False}, {"window": 5}])
def test_the_blocks_of_a_gpu_equal_stock_in_float32(
    options: dict[str, int], narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU, uncompiled: positions in widened queries and keys, values as wide or narrow."""
    monkeypatch.setattr(mixed, "CpuBlock", mixed_blocks.Block)
    monkeypatch.setattr(mixed_blocks, "_may_be_narrow", lambda *_: narrow)
    stock = vit(320, **options)  # type: ignore[arg-type]
    with torch.inference_mode():
        exact = stock(images(320))
        assert error(MixedEncoder(stock, torch.float32)(images(320)), exact) < 1e-5


def test_windows_in_parts_and_heads_in_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = vit(256)
    with torch.inference_mode():
        encoder = MixedEncoder(stock, torch.float32)
        whole = encoder(images(256))
        for windows, queries in ((1, 100), (4 * 4 * 196**2 * 3, 7)):  # one window, three
            monkeypatch.setattr(mixed_blocks, "WINDOW_BYTES", windows)
            monkeypatch.setattr(mixed_blocks, "LARGE", 256)
            monkeypatch.setattr(attention, "LOGIT_BYTES", 4 * 256 * queries)
            assert error(encoder(images(256)), whole) < 5e-6


def test_relative_positions_of_another_grid_are_resized() -> None:
    """As ``get_rel_pos``: a global block whose table belongs to a smaller grid."""
    stock = vit(256)
    attention = stock.blocks[1].attn
    for name in ("rel_pos_h", "rel_pos_w"):
        table = torch.randn(2 * 9 - 1, 16, generator=torch.Generator().manual_seed(2))
        setattr(attention, name, nn.Parameter(table, requires_grad=False))
    with torch.inference_mode():
        exact = stock(images(256))
        assert error(MixedEncoder(stock, torch.float32)(images(256)), exact) < 1e-5


def test_bf16_is_nearer_than_autocast() -> None:
    stock = vit(320)
    with torch.inference_mode():
        exact = stock(images(320))
        with torch.autocast("cpu", torch.bfloat16):
            autocast = stock(images(320))
        found = MixedEncoder(stock, torch.bfloat16)(images(320))
    assert found.dtype == torch.float32
    assert 0 < error(found, exact) < error(autocast, exact) < 0.05


@needs_gpu
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_a_gpu_computes_the_same(dtype: torch.dtype, bound: float) -> None:
    torch._dynamo.reset()
    stock = vit(320)
    with torch.inference_mode():
        exact = stock(images(320))
        encoder = MixedEncoder(stock.cuda(), dtype)
        for batch in (2, 1):  # the second size compiles again
            found = encoder(images(320)[:batch].cuda()).cpu()
            assert error(found, exact[:batch]) < bound
    assert passes.widened.note == passes.add_norm.note == "compiled"


@needs_gpu
@pytest.mark.parametrize("narrow", [True, False])
def test_a_gpu_attends_in_rows_as_wide_as_those_of_vit_h(
    narrow: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 channels a head and 64x64 tokens: 208 wide, whatever this card would choose for the values."""
    torch._dynamo.reset()
    monkeypatch.setattr(mixed_blocks, "_may_be_narrow", lambda *_: narrow)
    stock = vit(1024, width=320)
    with torch.inference_mode():
        exact = stock.cuda()(images(1024, 1).cuda())
        found = MixedEncoder(stock, torch.bfloat16)(images(1024, 1).cuda())
    assert error(found, exact) < 0.05
