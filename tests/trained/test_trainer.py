"""The trainer on a tiny problem: it learns, isolates, stops, resumes to the same bytes, knows no order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from segment_anything.modeling import MaskDecoder, TwoWayTransformer

from lungfast.records import DecoderConfig, Int64, Plan, PromptTokens, RowBatch
from lungfast.trained.batches import BatchMaker
from lungfast.trained.decoder import DecoderStack
from lungfast.trained.trainer import DIVERGED, STOPPED, Fitted, TrainConfig, Trainer, predict

GRID, C = (4, 4), 256


class Rows:
    """Twelve rows whose target is a half plane that one feature channel gives away."""

    n_rows = 12

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.features = rng.normal(0, 0.5, (self.n_rows, 16, C)).astype(np.float16)
        self.targets = np.zeros((self.n_rows, 16, 16), bool)
        for row in range(self.n_rows):
            edge = 4 * (1 + row % 3)
            self.targets[row, :edge] = True
            self.features[row, : edge // 4 * 4, :8] += 3

    def stream(self, rows_GB: Iterable[Int64]) -> Iterator[RowBatch]:
        for rows in rows_GB:
            yield RowBatch(
                rows_GB=rows,
                features_GBNC=self.features[rows],
                targets_GBhw=self.targets[rows],
                valid_GBhw=np.ones_like(self.targets[rows]),
            )


class Tokens:
    """Prompt tokens from (row, epoch) alone."""

    n_instances, n_tokens = 1, 2

    def tokens(self, rows_B: Int64, *, epoch: int | None) -> PromptTokens:
        made = [
            np.random.default_rng([int(row), (epoch or 0) + 1]).normal(0, 0.1, (1, 2, C)) for row in rows_B
        ]
        return PromptTokens(
            tokens_BIPC=np.stack(made).astype(np.float32), mask_BIP=np.ones((len(rows_B), 1, 2), bool)
        )


@pytest.fixture(scope="module")
def initial() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = TwoWayTransformer(depth=2, embedding_dim=C, mlp_dim=64, num_heads=8)
        return MaskDecoder(transformer_dim=C, transformer=transformer).state_dict()


def plan_of(*configs: DecoderConfig, trains: Int64 | None = None) -> Plan:
    train = np.arange(9) if trains is None else trains
    tokens = Tokens()
    return Plan(
        configs=configs,
        train_rows_K=(train,) * len(configs),
        val_rows_K=(np.arange(9, 12),) * len(configs),
        prompts_K=(tokens,) * len(configs),
    )


def trainer_of(plan: Plan, initial: dict[str, torch.Tensor], **config: object) -> Trainer:
    generator = torch.Generator().manual_seed(1)
    stack = DecoderStack.from_states(
        [initial] * len(plan),
        pe_NC=torch.randn(16, C, generator=generator) * 0.1,
        dense_C=torch.zeros(C),
        grid=GRID,
        device=torch.device("cpu"),
    )
    maker = BatchMaker(plan.prompts_K, Rows(), torch.device("cpu"))
    return Trainer(plan, maker, stack, TrainConfig(**({"epochs": 3, "batch_size": 4} | config)))  # type: ignore[arg-type]


def run(trainer: Trainer) -> dict[str, Fitted]:
    for _ in trainer.epochs():
        pass
    return {one.key: one for one in trainer.fitted()}


def same(one: Fitted, two: Fitted) -> bool:
    return all(torch.equal(one.state[name], two.state[name]) for name in one.state)


SLOW, FAST = DecoderConfig(key="slow", lr=1e-5, wd=0), DecoderConfig(key="fast", lr=1e-3, wd=1e-4)


def test_it_learns_and_keeps_the_best_epoch(initial: dict[str, torch.Tensor]) -> None:
    found = run(trainer_of(plan_of(SLOW, FAST), initial, epochs=8, schedule="constant"))["fast"]
    assert found.val_loss[-1] < 0.7 * found.val_loss[0]
    assert found.best_epoch == int(np.argmin(found.val_loss)) + 1
    assert found.status == "done"


def test_the_kept_decoder_gives_the_kept_loss(initial: dict[str, torch.Tensor]) -> None:
    plan = plan_of(FAST)
    trainer = trainer_of(plan, initial, epochs=4, schedule="constant")
    kept = run(trainer)["fast"]
    again = trainer_of(plan, dict(kept.state), epochs=1)
    assert again._validate()[0] == pytest.approx(min(kept.val_loss), rel=1e-6)


def test_resume_from_any_epoch_gives_the_same_bytes(initial: dict[str, torch.Tensor]) -> None:
    whole = run(trainer_of(plan_of(SLOW, FAST), initial))
    for stop_after in (1, 2):
        first = trainer_of(plan_of(SLOW, FAST), initial)
        for end in first.epochs():
            if end.epoch == stop_after:
                break
        notes = first.notes()
        tensors = [{name: tensor.clone() for name, tensor in flat.items()} for flat in first.tensors()]
        second = trainer_of(plan_of(SLOW, FAST), initial)
        second.restore(notes, tensors)
        resumed = run(second)
        for key, one in whole.items():
            assert same(one, resumed[key])
            assert one.val_loss == resumed[key].val_loss
            assert one.train_loss == resumed[key].train_loss


def test_a_diverging_decoder_leaves_its_neighbour_as_it_would_be_alone(
    initial: dict[str, torch.Tensor],
) -> None:
    wild = DecoderConfig(key="wild", lr=1e30, wd=0)
    both = run(trainer_of(plan_of(wild, FAST), initial, schedule="constant"))
    calm = run(
        trainer_of(plan_of(DecoderConfig(key="calm", lr=1e-9, wd=0), FAST), initial, schedule="constant")
    )
    assert both["wild"].status == DIVERGED
    assert both["fast"].status == "done"
    assert same(both["fast"], calm["fast"])


def test_every_decoder_may_diverge(initial: dict[str, torch.Tensor]) -> None:
    trainer = trainer_of(
        plan_of(DecoderConfig(key="wild", lr=1e30, wd=0)), initial, epochs=5, schedule="constant"
    )
    ends = list(trainer.epochs())
    assert len(ends) < 5
    assert trainer.fitted()[0].status == DIVERGED


def test_the_place_in_the_stack_changes_rounding_only(initial: dict[str, torch.Tensor]) -> None:
    forth = run(trainer_of(plan_of(SLOW, FAST), initial))
    back = run(trainer_of(plan_of(FAST, SLOW), initial))
    for key, one in forth.items():
        for name, tensor in one.state.items():
            torch.testing.assert_close(tensor, back[key].state[name], rtol=1e-3, atol=2e-4)


def test_early_stopping_freezes_a_decoder(initial: dict[str, torch.Tensor]) -> None:
    still = DecoderConfig(key="still", lr=1e-30, wd=0)
    found = run(trainer_of(plan_of(still, FAST), initial, epochs=5, patience=2, schedule="constant"))
    assert found["still"].status == STOPPED
    assert found["still"].best_epoch == 1
    assert np.isnan(found["still"].train_loss[3:]).all()
    assert np.isfinite(found["fast"].train_loss).all()
    last = run(
        trainer_of(plan_of(still, FAST), initial, epochs=5, patience=2, schedule="constant", keep="last")
    )
    assert (last["still"].best_epoch, last["fast"].best_epoch) == (3, 5)


def test_val_every_and_keep_last(initial: dict[str, torch.Tensor]) -> None:
    found = run(trainer_of(plan_of(FAST), initial, epochs=5, val_every=2, keep="last"))["fast"]
    np.testing.assert_array_equal(np.isnan(found.val_loss), [True, False, True, False, False])
    assert found.best_epoch == 5


def test_predict_yields_every_row_of_every_decoder_once(initial: dict[str, torch.Tensor]) -> None:
    plan = plan_of(SLOW, FAST)
    trainer = trainer_of(plan, initial)
    rows_K = [np.array([3, 1, 2, 8, 7]), np.array([0])]
    found = {
        (k, row): logits for k, row, logits in predict(trainer._maker, trainer._stack, rows_K, batch_size=2)
    }
    assert set(found) == {(0, 3), (0, 1), (0, 2), (0, 8), (0, 7), (1, 0)}
    assert all(logits.shape == (16, 16) and logits.dtype == np.float32 for logits in found.values())


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch_size": 0}, {"val_every": 0}])
def test_a_config_is_checked_where_it_is_made(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        TrainConfig(**({"epochs": 1} | wrong))
