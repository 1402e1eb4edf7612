"""Our losses against MONAI's, value and gradient, per sample on the valid crop."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lungfast.trained.losses import focal_flags, segmentation_loss
from tests.naive.trained import monai_loss


def both(name: str, logits_hw: torch.Tensor, target_hw: torch.Tensor, valid_hw: torch.Tensor):
    """(value, gradient) ours and MONAI's."""
    results = []
    for ours in (True, False):
        leaf = logits_hw.clone().requires_grad_()
        if ours:
            flat = [x.flatten()[None, None] for x in (leaf, target_hw, valid_hw)]
            value = segmentation_loss(*flat, focal_flags([name]))[0, 0]
        else:
            value = monai_loss(name, leaf, target_hw, valid_hw)
        value.backward()
        results.append((value.detach(), leaf.grad))
    return results


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["dicefocal", "dicece"]),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    crop=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    scale=st.sampled_from([0.1, 3.0, 40.0]),
    foreground=st.sampled_from([0.0, 0.4, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_equals_monai_on_the_valid_crop(name, size, crop, scale, foreground, seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(size, generator=generator, dtype=torch.float64) * scale
    target = torch.rand(size, generator=generator) < foreground
    valid = torch.zeros(size, dtype=torch.bool)
    valid[: crop[0], : crop[1]] = True
    (value, grad), (value_monai, grad_monai) = both(name, logits, target, valid)
    torch.testing.assert_close(value, value_monai, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grad, grad_monai, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", ["dicefocal", "dicece"])
def test_equals_monai_in_float32(name):
    """Here MONAI's own DiceFocalLoss class is called, not its parts."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(32, 32, generator=generator) * 8
    target = torch.rand(32, 32, generator=generator) < 0.3
    (value, grad), (value_monai, grad_monai) = both(
        name, logits, target, torch.ones(32, 32, dtype=torch.bool)
    )
    torch.testing.assert_close(value, value_monai, rtol=2e-6, atol=0)
    torch.testing.assert_close(grad, grad_monai, rtol=1e-4, atol=1e-6 * float(grad_monai.abs().max()))


def test_each_decoder_has_its_own_loss_and_shares_the_target():
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(2, 3, 50, generator=generator, dtype=torch.float64)
    target = torch.rand(1, 3, 50, generator=generator) < 0.5
    valid = torch.ones(1, 3, 50, dtype=torch.bool)
    mixed = segmentation_loss(logits, target, valid, focal_flags(["dicece", "dicefocal"]))
    for k, name in enumerate(("dicece", "dicefocal")):
        for b in range(3):
            expected = monai_loss(name, logits[k, b][None], target[0, b][None], valid[0, b][None])
            torch.testing.assert_close(mixed[k, b], expected, rtol=1e-10, atol=0)


def test_what_lies_on_padding_changes_nothing():
    generator = torch.Generator().manual_seed(6)
    logits = torch.randn(1, 1, 20, generator=generator)
    valid = torch.arange(20)[None, None] < 12
    target = torch.rand(1, 1, 20, generator=generator) < 0.5
    changed = torch.where(valid, logits, 30.0), torch.where(valid, target, True)
    for name in ("dicefocal", "dicece"):
        flags = focal_flags([name])
        expected = segmentation_loss(logits, target & valid, valid, flags)
        assert torch.equal(segmentation_loss(*changed, valid, flags), expected)


def test_no_valid_pixel_is_finite():
    nothing = torch.zeros(1, 1, 4, dtype=torch.bool)
    loss = segmentation_loss(torch.ones(1, 1, 4), nothing, nothing, focal_flags(["dicefocal"]))
    assert torch.isfinite(loss).all()
