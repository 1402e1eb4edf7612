"""Before fine-tuning: what a fold's prompts know."""

from __future__ import annotations

import numpy as np
import torch

from lungfast.data.splits import make_folds
from lungfast.frozen.prompts import CachePrompts, PromptConfig
from lungfast.studies.baseline import _candidates
from lungfast.studies.workspace import Workspace


def test_points_and_boxes_of_a_fold_come_from_its_training_images(nano_cache: str) -> None:
    workspace, prompt = Workspace(nano_cache, device=torch.device("cpu")), PromptConfig(kind="both-auto")
    splits = make_folds(workspace.cache.images, 3, seed=0)
    for split, one in zip(splits, _candidates(workspace, prompt, splits, None, seed=0), strict=True):
        assert isinstance(one.prompts, CachePrompts)
        prior, test = one.prompts.prior.as_dict(), workspace.prompts(prompt, split.test, seed=0)
        assert prior == workspace.prompts(prompt, split.train, seed=0).prior.as_dict()
        assert prior != test.prior.as_dict()
        np.testing.assert_array_equal(one.images, split.test)
