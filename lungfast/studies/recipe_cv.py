"""A training recipe as the configuration of a cross-validation, for commands, Python and reports."""

from __future__ import annotations

from collections.abc import Sequence

from lungfast.frozen.cache import EmbeddingCache
from lungfast.records import PromptKind
from lungfast.studies.cv import CvConfig
from lungfast.studies.on_request import Extras
from lungfast.studies.recipes import TrainingRecipe


def recipe_cv(
    recipe: TrainingRecipe,
    cache: EmbeddingCache,
    *,
    kinds: Sequence[PromptKind] = ("points",),
    folds: int = 5,
    split_seed: int = 0,
) -> CvConfig:
    """What is trained; how it is trained are the recipe's ``settings_for``."""
    options = recipe.options_for(cache, folds)
    return CvConfig(
        prompts=tuple(map(recipe.prompt, kinds)),
        lrs=options["lrs"],
        wds=options["wds"],
        losses=recipe.losses,
        folds=folds,
        seeds=tuple(range(recipe.seeds)),
        split_seed=split_seed,
        ensemble=recipe.ensemble,
        extras=Extras(clean=recipe.clean),
    )
