"""How good must a box be? Test F1 of box-prompted decoders against the perturbation of their boxes.

Comes in: a finished run with a row prompted by a box, and its cache. Every side of every test box is moved by
a uniform whole number of pixels of a 1024-pixel frame, inward or outward, clipped to the image; the decoders
and their thresholds stay as they are.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from lungfast.errors import RunError
from lungfast.frozen.prompts import CachePrompts
from lungfast.records import Float64, Int64, PromptTokens
from lungfast.runs import RunFolder, results
from lungfast.studies.fitting import Listener
from lungfast.studies.models import FinishedRun, Model
from lungfast.studies.rescoring import rescore, row_head, tell_fewer_views, test_images
from lungfast.studies.session import ScoreBody
from lungfast.studies.summaries import summary
from lungfast.studies.workspace import Workspace

FRAME = 1024
PIXELS: tuple[int, ...] = (0, 5, 10, 20, 40, 80, 160)


@dataclass(frozen=True, kw_only=True)
class JitterConfig:
    """The run, by the hash of its results; the largest move of a side, one row of the table each."""

    run: str
    results_sha256: str
    pixels: tuple[int, ...] = PIXELS
    seed: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class MovedBoxes:
    """A ``PromptSource``: another's prompts with moved boxes, the same for an image in every fold and run."""

    prompts: CachePrompts
    pixels: int
    seed: int

    @property
    def n_instances(self) -> int:
        return self.prompts.n_instances

    @property
    def n_tokens(self) -> int:
        return self.prompts.n_tokens

    def tokens(self, rows_B: Int64, *, epoch: int | None) -> PromptTokens:
        return self.prompts.encoded([self.coordinates(int(row)) for row in rows_B])

    def coordinates(self, row: int) -> tuple[Float64, Float64]:
        """Points as they are, boxes (I, 4) moved; sides that would cross are put in order again."""
        image = int(self.prompts.images.image_of_row[row])
        points_IN2, boxes_I4 = self.prompts.coordinates(image, epoch=None, row=row)
        frame = self.prompts.images.frames[image]
        identity = zlib.crc32(self.prompts.images.ids[image].encode())
        rng = np.random.default_rng([self.seed, self.pixels, identity])
        moves_I4 = rng.integers(-self.pixels, self.pixels + 1, boxes_I4.shape) * frame.input_size / FRAME
        low_2, high_2 = frame.points_to_input(np.array([[0.0, 0.0], [1.0, 1.0]]))
        corners_I22 = np.clip((boxes_I4 + moves_I4).reshape(-1, 2, 2), low_2, high_2)
        return points_IN2, np.sort(corners_I22, axis=1).reshape(-1, 4)


def box_jitter(
    config: JitterConfig,
    finished: FinishedRun,
    workspace: Workspace,
    memory_bytes: int,
    listener: Listener,
) -> ScoreBody:
    """The body of the study; RunError where no row of the run is prompted by a box."""
    finished.check_cache(workspace.cache)
    keys = [key for key in finished.rows() if finished.models(key)[0].prompt.has_box]
    if not keys:
        raise RunError(
            f"{finished.path} has no decoder that takes a box",
            found=", ".join(finished.rows()),
            expected="box, both, box-auto or both-auto",
        )

    def body(run: RunFolder, made_with: dict[str, Any]) -> dict[str, Any]:
        rows = []
        for key in keys:
            models = finished.models(key)
            tell_fewer_views(models, workspace, listener.note)
            for pixels in config.pixels:
                listener.phase(f"{key}, boxes ± {pixels} px", len(workspace.cache.images))
                scores = rescore(
                    models,
                    workspace,
                    test_images(finished, workspace),
                    memory_bytes,
                    prompts=partial(_moved, workspace, pixels, config.seed),
                    advance=listener.advance,
                )
                row = row_head(key, models[0], jitter_px=pixels)
                rows.append(row | summary(scores, workspace.cache.images, seed=config.seed))
        content = results("jitter", rows, made_with)
        run.write_results(content)
        return content

    return body


def _moved(workspace: Workspace, pixels: int, seed: int, model: Model) -> MovedBoxes:
    return MovedBoxes(prompts=model.prompts(workspace), pixels=pixels, seed=seed)
