"""Orders derive from what they order; batches are ragged by weight; prompts are padded by mask."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lungfast.records import PromptTokens
from lungfast.trained.batches import pad_tokens, plan_batches, row_order

row_sets = st.lists(st.integers(0, 99), min_size=1, max_size=30, unique=True).map(np.array)


@given(row_sets, st.integers(0, 5), st.integers(0, 5))
def test_an_order_is_a_permutation_that_depends_on_the_set_alone(
    rows: np.ndarray, seed: int, epoch: int
) -> None:
    order = row_order(rows, seed=seed, epoch=epoch)
    np.testing.assert_array_equal(np.sort(order), np.sort(rows))
    np.testing.assert_array_equal(order, row_order(rows[::-1], seed=seed, epoch=epoch))


@given(row_sets, st.integers(2, 5), st.integers(0, 3))
def test_of_views_every_image_comes_once_in_the_order_of_its_set(
    images: np.ndarray, n_views: int, epoch: int
) -> None:
    views_NV = images[:, None] * n_views + np.arange(n_views)
    order = row_order(views_NV, seed=1, epoch=epoch)
    np.testing.assert_array_equal(np.sort(order // n_views), np.sort(images))
    np.testing.assert_array_equal(order, row_order(views_NV[::-1], seed=1, epoch=epoch))
    first = row_order(views_NV[:, 0], seed=1, epoch=epoch)
    np.testing.assert_array_equal(order // n_views, first // n_views)


def test_every_view_is_as_likely() -> None:
    views_NV = np.arange(400).reshape(100, 4)
    drawn = np.concatenate([row_order(views_NV, seed=0, epoch=epoch) % 4 for epoch in range(40)])
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), 0.25, atol=0.03)


def test_epochs_and_seeds_differ() -> None:
    rows = np.arange(50)
    orders = {row_order(rows, seed=seed, epoch=epoch).tobytes() for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


@given(st.lists(row_sets, min_size=1, max_size=4), st.integers(1, 9), st.booleans())
def test_every_row_has_weight_once_and_padding_none(
    orders: list[np.ndarray], size: int, one_size: bool
) -> None:
    batches = plan_batches(orders, size, one_size=one_size)
    for k, order in enumerate(orders):
        seen = [batch.rows_KB[k][batch.weight_KB[k] > 0] for batch in batches]
        np.testing.assert_array_equal(np.concatenate(seen), order)
    assert len({batch.rows_KB.shape for batch in batches[:-1]}) <= 1
    longest = max(map(len, orders))
    left = longest - (len(batches) - 1) * min(size, longest)
    assert batches[-1].rows_KB.shape[1] == (batches[0].rows_KB.shape[1] if one_size else left)


def test_equal_orders_share_a_batch_even_when_ragged() -> None:
    order = np.arange(11)
    batches = plan_batches([order, order], 4)
    assert [(batch.shared, batch.rows_GB.shape) for batch in batches] == [
        (True, (1, 4)),
        (True, (1, 4)),
        (True, (1, 3)),
    ]
    assert not plan_batches([order, order[::-1]], 4)[0].shared


def test_padding_prompts_repeats_instances_and_masks_tokens() -> None:
    one = PromptTokens(tokens_BIPC=np.ones((2, 1, 3, 4), np.float32), mask_BIP=np.ones((2, 1, 3), bool))
    two = PromptTokens(tokens_BIPC=np.full((2, 2, 2, 4), 2, np.float32), mask_BIP=np.ones((2, 2, 2), bool))
    both = pad_tokens([one, two], 2, 3)
    assert both.tokens_BIPC.shape == (2, 2, 2, 3, 4)
    np.testing.assert_array_equal(both.tokens_BIPC[0, :, 1], one.tokens_BIPC[:, 0])
    assert not both.mask_BIP[1, :, :, 2].any()
    assert both.mask_BIP[0].all()
