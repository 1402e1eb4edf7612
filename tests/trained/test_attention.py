"""Absorbed, stock-order and hand-written attention against segment-anything's Attention, one by one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lungfast.trained import attention
from lungfast.trained.attention import ImageTokens, Sharing, image_to_token, token_to_image
from lungfast.trained.norms import layer_norm
from lungfast.trained.pixels import PART_BYTES, pixel_logits, pixel_loss

C, N = 256, 30
F64 = torch.float64
TOLERANCE = {"rtol": 1e-9, "atol": 1e-11}


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def sam_attentions(n: int) -> list[torch.nn.Module]:
    """With key biases, which ours leaves out."""
    from segment_anything.modeling.transformer import Attention

    torch.manual_seed(0)
    modules = [Attention(C, 8, downsample_rate=2).to(F64) for _ in range(n)]
    for module in modules:
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    return modules


def stacked(modules: list[torch.nn.Module]) -> dict[str, torch.Tensor]:
    names = [name for name in modules[0].state_dict() if name != "k_proj.bias"]
    return {name: torch.stack([module.state_dict()[name] for module in modules]) for name in names}


@settings(max_examples=30, deadline=None)
@given(
    g=st.integers(1, 3), d=st.integers(1, 3), b=st.integers(1, 3), j=st.integers(1, 2), x=st.integers(1, 4)
)
def test_gather_brings_the_users_of_an_image_together_and_scatter_undoes_it(g, d, b, j, x):
    share = Sharing(groups=g, decoders=d, images=b, prompts=j)
    tokens = torch.arange(g * d * b * j * x * 2).view(g * d, b * j, x, 2)
    rows = share.gather(tokens)
    assert torch.equal(share.scatter(rows), tokens)
    owner = torch.arange(g * b)[:, None, None].expand(g * b, 5, 2)
    assert torch.equal(rows[:, 0], torch.stack([share.gather(tokens)[s, 0] for s in range(g * b)]))
    spread = share.spread(owner)
    for k in range(g * d):
        for r in range(b * j):
            assert (spread[k, r] == (k // d) * b + r // j).all()


SHARES = {
    "one decoder": Sharing(groups=1, decoders=1, images=3, prompts=1),
    "two prompts an image": Sharing(groups=1, decoders=1, images=2, prompts=2),
    "a grid": Sharing(groups=1, decoders=3, images=2, prompts=2),
    "groups": Sharing(groups=2, decoders=2, images=2, prompts=1),
    "folds": Sharing(groups=3, decoders=1, images=2, prompts=1),
}


PLAIN = [(kind, n_tokens, False) for kind in SHARES for n_tokens in (8, 25)]
# the hand-written kernels are for one decoder and absorbed attention
BY_HAND = [(kind, n, True) for kind in ("one decoder", "two prompts an image") for n in (8, 24)]


@pytest.mark.parametrize(("kind", "n_tokens", "fused"), PLAIN + BY_HAND)
def test_both_directions_equal_segment_anything(kind, n_tokens, fused):
    share = SHARES[kind]
    k, r = share.groups * share.decoders, share.images * share.prompts
    modules, tokens, values = sam_attentions(k), randn(k, r, n_tokens, C), randn(k, r, n_tokens, C, seed=2)
    image, encoding = randn(share.groups * share.images, N, C, seed=1), randn(N, C, seed=3)
    side = ImageTokens.of(image, encoding, share, fused=fused)
    norm = (randn(k, C, seed=4), randn(k, C, seed=5))
    mask = torch.zeros(k, r, n_tokens, dtype=F64)
    mask[..., -2:] = -math.inf
    seen, side = token_to_image(stacked(modules), tokens, side)
    updated = image_to_token(stacked(modules), side, (tokens, values, mask), norm)
    for i in range(k):
        for j in range(r):
            x = image[i // share.decoders * share.images + j // share.prompts][None]
            expected = modules[i](q=tokens[i, j][None], k=x + encoding, v=x)
            torch.testing.assert_close(seen[i, j], expected[0], **TOLERANCE)
            real = (tokens[i, j][None, :-2], values[i, j][None, :-2])
            out = x + modules[i](q=x + encoding, k=real[0], v=real[1])
            expected = layer_norm(out, norm[0][i][None], norm[1][i][None])
            torch.testing.assert_close(updated.value_SNC[i * r + j], expected[0], **TOLERANCE)
            torch.testing.assert_close(updated.position_SNC[i * r + j], expected[0] + encoding, **TOLERANCE)


@pytest.mark.parametrize("kind", ["one decoder", "two prompts an image", "a grid"])
def test_absorbed_equals_stock_order_on_the_same_tokens(kind, monkeypatch):
    share = SHARES[kind]
    k, r = share.groups * share.decoders, share.images * share.prompts
    params, tokens = stacked(sam_attentions(k)), randn(k, r, 8, C)
    side = ImageTokens.of(randn(share.images, N, C), randn(N, C, seed=3), share, fused=False)
    norm, mask = (torch.ones(k, C, dtype=F64), torch.zeros(k, C, dtype=F64)), torch.zeros(k, r, 8, dtype=F64)
    results = []
    for below in (0, 17):
        monkeypatch.setattr(attention, "ABSORB_BELOW", below)
        results.append(
            (
                token_to_image(params, tokens, side)[0],
                image_to_token(params, side, (tokens, tokens, mask), norm).value_SNC,
            )
        )
    for stock, absorbed in zip(*results, strict=True):
        torch.testing.assert_close(absorbed, stock, **TOLERANCE)


def gradients(make, *leaves: torch.Tensor) -> list[torch.Tensor]:
    leaves = tuple(leaf.clone().requires_grad_() for leaf in leaves)
    out = make(*leaves)
    weight = randn(*out.shape, seed=77)
    return [out.detach(), *torch.autograd.grad((out * weight).sum(), leaves)]


@pytest.mark.parametrize("kind", ["one decoder", "two prompts an image"])
def test_hand_written_gradients_of_the_attentions_equal_autograd(kind):
    share = SHARES[kind]
    r = share.images * share.prompts
    params, encoding = stacked(sam_attentions(1)), randn(N, C, seed=3)
    leaves = (randn(1, r, 8, C), randn(share.images, N, C, seed=1), randn(1, C, seed=4), randn(1, C, seed=5))
    mask = torch.zeros(1, r, 8, dtype=F64)
    mask[..., -1] = -math.inf

    def make(fused):
        def run(tokens, image, weight, bias):
            side = ImageTokens.of(image, encoding, share, fused=fused)
            seen, side = token_to_image(params, tokens, side)
            return image_to_token(params, side, (seen + tokens, seen, mask), (weight, bias)).value_SNC

        return run

    for fused, plain in zip(gradients(make(True), *leaves), gradients(make(False), *leaves), strict=True):
        torch.testing.assert_close(fused, plain, **TOLERANCE)


def upscaling(samples: int, n: int, *, fine: bool = False) -> list[torch.Tensor]:
    """Image tokens, hyper, and the weights of the two convolutions: 16 channels, then 4, then 2; and of 3
    high-resolution channels."""
    sizes = ((samples, n, 16), (samples, 2), (16, 16), (16,), (4,), (4,), (4, 8), (8,), *[(3, 4)] * fine)
    return [randn(*size, seed=seed) for seed, size in enumerate(sizes)]


def high_res(samples: int, n: int, *, fine: bool) -> torch.Tensor | None:
    return randn(samples, 4 * n, 3, seed=11) if fine else None


@pytest.mark.parametrize(("samples", "n"), [(5, 6), (2, PART_BYTES // 4096 + 3), (3, PART_BYTES // 8192)])
@pytest.mark.parametrize("fine", [False, True])
def test_hand_written_pixels_equal_autograd(samples, n, fine):
    leaves, maps = upscaling(samples, n, fine=fine), high_res(samples, n, fine=fine)

    def plain(image, hyper, first, first_bias, weight, bias, second, second_bias, *skip):
        low = (image @ first + first_bias).view(samples, -1, 4)
        low = low + sum(maps @ one for one in skip)
        low = torch.nn.functional.gelu(torch.nn.functional.layer_norm(low, (4,), weight, bias, 1e-6))
        high = torch.nn.functional.gelu(low @ second + second_bias).view(samples, -1, 2)
        return (high @ hyper[..., None])[..., 0]

    ours = gradients(lambda image, hyper, *weights: pixel_logits(image, hyper, maps, weights), *leaves)
    for fused, expected in zip(ours, gradients(plain, *leaves), strict=True):
        torch.testing.assert_close(fused, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("samples", "n"), [(5, 6), (2, PART_BYTES // 4096 + 3), (3, PART_BYTES // 8192)])
@pytest.mark.parametrize("fine", [False, True])
def test_losses_image_by_image_have_the_gradients_of_all_logits(samples, n, fine):
    leaves, truth = upscaling(samples, n, fine=fine), randn(samples, 16 * n, seed=9)
    maps = high_res(samples, n, fine=fine)
    at_once = [leaf.clone().requires_grad_() for leaf in leaves]
    by_image = [leaf.clone().requires_grad_() for leaf in leaves]

    def losses(logits_BX, rows=slice(None)):
        return (logits_BX - truth[rows]).square().mean(1).sqrt()

    expected = losses(pixel_logits(*at_once[:2], maps, at_once[2:]))
    found = pixel_loss(lambda rows, logits: losses(logits, rows), *by_image[:2], maps, by_image[2:])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    pairs = (torch.autograd.grad(sums.sum(), of) for sums, of in ((found, by_image), (expected, at_once)))
    for ours, plain in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-8, atol=1e-10)
