"""The batched promptable model is segment-anything's, image by image; losses are Dice and entropy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceLoss

from lungfast.frozen.nano import sam_head_modules
from lungfast.trained.promptable import decode, dice_and_entropy, prompt_tokens


def test_tokens_and_masks_equal_segment_anything() -> None:
    """Two images with a point and a box each: 1e-5 of the largest logit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder, decoder = sam_head_modules((8, 8), 128)
        image_BCEE, points_BP2 = torch.randn(2, 256, 8, 8), torch.rand(2, 3, 2) * 128
    labels_BP = torch.tensor([[1, 2, 3], [0, 2, 3]])
    with torch.inference_mode():
        tokens_BPC = prompt_tokens(encoder, points_BP2, labels_BP)
        masks_BMhw, iou_BM = decode(decoder, encoder, image_BCEE, tokens_BPC)
        for b in range(2):
            points = (points_BP2[b : b + 1, :1], labels_BP[b : b + 1, :1])
            # the prompt encoder adds half a pixel to points and to corners
            sparse, dense = encoder(points, points_BP2[b : b + 1, 1:].reshape(1, 4), None)
            # sines of up to 20 rad: a unit in the last place of the angle, as the batch is another, is 2e-6
            torch.testing.assert_close(tokens_BPC[b], sparse[0], rtol=0, atol=1e-5)
            expected, iou = decoder.predict_masks(
                image_BCEE[b : b + 1], encoder.get_dense_pe(), sparse, dense
            )
            assert (masks_BMhw[b] - expected[0]).abs().max() <= 1e-5 * expected.abs().max()
            assert iou_BM[b] == pytest.approx(iou[0], abs=1e-5)


def test_a_point_alone_ends_with_segment_anythings_empty_one() -> None:
    encoder, _ = sam_head_modules((8, 8), 128)
    point = torch.tensor([[[5.0, 9.0]]])
    expected, _ = encoder((point, torch.ones(1, 1)), None, None)
    ours = prompt_tokens(encoder, F.pad(point, (0, 0, 0, 1)), torch.tensor([[1, -1]]))
    assert torch.allclose(ours, expected, atol=1e-6)


def test_loss_equals_monai_and_torch_without_padding() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        logits, target = torch.randn(3, 2, 9, 7), (torch.rand(3, 2, 9, 7) > 0.6).float()
    ours = dice_and_entropy(logits, target, torch.ones(3, 1, 9, 7, dtype=torch.bool))
    dice = DiceLoss(sigmoid=True, reduction="none", smooth_nr=1, smooth_dr=1)(logits, target)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(dim=(2, 3))
    assert torch.allclose(ours, dice.flatten(1) + entropy, atol=1e-5)


def test_padding_counts_in_no_loss() -> None:
    logits, target = torch.randn(1, 1, 8, 8), torch.rand(1, 1, 8, 8)
    valid = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    valid[..., :5] = True
    other = torch.where(valid, logits, 30.0)
    assert torch.equal(dice_and_entropy(logits, target, valid), dice_and_entropy(other, target, valid))
    part = dice_and_entropy(logits[..., :5], target[..., :5], valid[..., :5])
    assert torch.allclose(dice_and_entropy(logits, target, valid), part, atol=1e-6)
