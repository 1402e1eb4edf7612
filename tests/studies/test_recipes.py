"""Budgets of a recipe, times in words, learning curves that settle, boxes that move."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lungfast.frozen.prompts import PromptConfig
from lungfast.studies.jitter import MovedBoxes
from lungfast.studies.reproduce import in_words
from lungfast.studies.tables import SETTLED_WITHIN, improvement
from lungfast.studies.whole_paper import QUICK_EPOCHS, paper_recipe
from lungfast.studies.workspace import Workspace


def test_the_papers_epochs_and_budgets_by_set() -> None:
    sizes = {"montgomery": 83, "shenzhen": 340}
    assert paper_recipe(sizes).epochs == {"montgomery": 100, "shenzhen": 100}
    assert paper_recipe(sizes, epochs={"shenzhen": 20}).epochs == {"montgomery": 100, "shenzhen": 20}
    quick = paper_recipe(sizes, quick=True)
    assert quick.epochs["montgomery"] > quick.epochs["shenzhen"] >= QUICK_EPOCHS[0]
    assert paper_recipe(sizes).curve_epochs("montgomery") == 150
    shorter = paper_recipe(sizes, unet_epochs={"shenzhen": 20})
    assert [shorter.unet_of(name).epochs for name in sizes] == [40, 20]
    assert any("20 or 40 epochs" in sentence for sentence in shorter.chosen_by_us())
    assert paper_recipe(sizes, unet_epochs={"shenzhen": 20}, quick=True).unet_of("shenzhen").epochs == 20
    assert quick.curve_epochs("montgomery") is None
    assert quick.grid_epochs("montgomery") < quick.epochs["montgomery"]
    assert quick.unet_of("shenzhen").epochs < quick.unet_of("montgomery").epochs
    assert quick.unet_of("shenzhen").epochs > quick.epochs["shenzhen"]
    assert set(quick.travelling) < set(paper_recipe(sizes).travelling) == {one.kind for one in quick.prompts}
    assert paper_recipe(sizes, seeds=3).seeds == (0, 1, 2)


def test_a_recipe_trains_as_the_paper_does() -> None:
    settings = paper_recipe({"m": 83}).settings(83, 1 << 30, precision="fp32", compile_="off")
    assert (settings.train.schedule, settings.train.keep) == ("constant", "last")
    assert settings.choose_among == (0.5, 0.55, 0.6, 0.65, 0.7)
    assert set(settings.choose_among) <= set(settings.thresholds)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (40, "40 s"), (100, "2 min"), (5339, "89 min"), (6600, "1 h 50 min")],
)
def test_times_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@given(st.lists(st.floats(0.01, 10) | st.just(float("nan")), min_size=1, max_size=30))
def test_a_curve_settles_no_later_than_it_is_lowest(losses: list[float]) -> None:
    found = improvement(losses)
    known = [loss for loss in losses if np.isfinite(loss)]
    if not known:
        assert found == {"last_improvement": None, "settled": None}
        return
    lowest, settled = found["last_improvement"], found["settled"]
    assert lowest is not None
    assert settled is not None
    assert losses[lowest - 1] == min(known)
    assert settled <= lowest
    assert losses[settled - 1] <= (1 + SETTLED_WITHIN) * min(known)


def test_boxes_move_within_their_pixels_and_stay_in_the_image(nano_cache: str) -> None:
    workspace = Workspace(nano_cache, device=torch.device("cpu"))
    prompts = workspace.prompts(PromptConfig(kind="box"), np.arange(6), seed=0)
    for image in range(len(workspace.cache.images)):
        _, still_I4 = MovedBoxes(prompts=prompts, pixels=0, seed=0).coordinates(image)
        _, moved_I4 = MovedBoxes(prompts=prompts, pixels=40, seed=0).coordinates(image)
        np.testing.assert_allclose(still_I4, prompts.coordinates(image, epoch=None)[1])
        frame = workspace.cache.frame(image)
        assert np.abs(moved_I4 - still_I4).max() <= 40 * frame.input_size / 1024 + 0.5
        assert (moved_I4[:, 2:] >= moved_I4[:, :2]).all()
        height, width = frame.resized_size
        assert moved_I4.min() >= -0.5
        assert (moved_I4 <= np.array([width, height, width, height]) - 0.5).all()
