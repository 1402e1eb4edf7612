"""Prompts and masks of generated X-rays as training takes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lungfast.data.randomised import STRUCTURES, generate_xray
from lungfast.studies.pretraining_data import KINDS, PROMPTED, Examples, collate, prompted_xray, random_prompt

SIDE, LOW, BATCH = 64, 32, 4
WHOLE = 128


@pytest.mark.parametrize(("kind", "n_one", "n_two"), [("points", 3, 3), ("point", 2, 2), ("box", 2, 2)])
def test_prompts_of_a_kind_have_one_length(kind: str, n_one: int, n_two: int) -> None:
    """Whether one structure is asked for or two: a batch is one array."""
    masks = np.zeros((2, 40, 50), bool)
    masks[0, 5:20, 5:20], masks[1, 5:20, 30:45] = True, True
    rng = np.random.default_rng(0)
    one = random_prompt(rng, kind, [masks[0]])
    two = random_prompt(rng, kind, [masks[0], masks[1]] if kind != "point" else [masks[1]])
    assert (len(one[0]), len(two[0])) == (n_one, n_two)


def test_points_lie_near_their_lungs() -> None:
    masks = np.zeros((2, 100, 100), bool)
    masks[0, 20:80, 10:40], masks[1, 20:80, 60:90] = True, True
    rng = np.random.default_rng(0)
    for _ in range(30):
        points, labels = random_prompt(rng, "negative", [masks[0], masks[1]])
        assert labels.tolist() == [1, 1, 0, -1]
        assert points[0, 0] < 50 < points[1, 0]
        boxed, kinds = random_prompt(rng, "both", [masks[0], masks[1]])
        assert kinds.tolist() == [1, 1, 2, 3]
        assert np.abs(boxed[2:] - ((9.5, 19.5), (89.5, 79.5))).max() < 15


def test_examples_are_the_numbers_own_and_batches_are_of_one_kind() -> None:
    examples = Examples(seed=1, n=12, batch=BATCH, side=WHOLE, small=3)
    again = prompted_xray(1, 5, BATCH, SIDE, WHOLE)
    assert np.array_equal(again.points_P2, examples[5].points_P2)
    assert np.array_equal(again.padded_SS, examples[5].padded_SS)
    for start in range(0, 12, BATCH):
        assert len({examples[start + b].labels_P.size for b in range(BATCH)}) == 1
    assert len(KINDS) == 5


def test_a_batch_is_normalised_padded_and_targeted() -> None:
    examples = Examples(seed=1, n=12, batch=BATCH, side=WHOLE, small=3)
    ones = [examples[i] for i in range(BATCH)]
    batch = collate(ones)
    assert batch.images_B3SS.shape == (BATCH, 3, SIDE, SIDE)
    assert batch.structures_BShw.shape == (BATCH, len(STRUCTURES), LOW, LOW)
    assert batch.target_Bhw.shape[0] == BATCH // PROMPTED
    for b, one in enumerate(ones):
        height, width = one.size
        assert torch.all(batch.images_B3SS[b, :, height:] == 0)
        assert torch.all(batch.images_B3SS[b, :, :, width:] == 0)
        assert torch.all(batch.images_B3SS[b, :, :height, :width] != 0)
        assert not batch.valid_Bhw[b, -(-height * LOW // SIDE) :].any()
        if b >= BATCH // PROMPTED:
            continue
        union = batch.structures_BShw[b, list(one.target)].sum(dim=0).clamp(max=1)
        assert torch.equal(batch.target_Bhw[b], union)


def test_soft_masks_are_shares_of_a_cell() -> None:
    one = prompted_xray(2, 0, BATCH, SIDE, WHOLE)
    xray = generate_xray(2, 0, SIDE)
    padded = np.zeros((SIDE, SIDE))
    padded[: one.size[0], : one.size[1]] = xray.masks_SHW[0]
    share = padded.reshape(LOW, 2, LOW, 2).mean(axis=(1, 3))
    assert np.abs(one.soft_Shw[0] / 255 - share).max() < 1 / 255
