"""The U-Net on tiny pictures: it learns, knows no padding, keeps the best epoch, is the same twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lungfast.errors import UsageError
from lungfast.trained.pictures import Augmentation, Draw, Pictures, augmented_batch, plain_batch
from lungfast.trained.trainer import DIVERGED, Fitted
from lungfast.trained.unet import PRESETS, UnetConfig, UnetTask, UnetTrainer, picture_loss, predict_unet

CPU = torch.device("cpu")
SIZE = 32
STILL = Augmentation(rotation_deg=0, scale=0, shift=0, gamma=0)
TINY = UnetConfig(size=SIZE, channels=(4, 8, 16), epochs=12, batch_size=3, lr=2e-2)


def pictures(n: int = 9, *, padding: int = 0, rows: int = SIZE, columns: int = 24) -> Pictures:
    """A bright rectangle somewhere on noise; right of ``columns`` is padding that holds ``padding``."""
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 80, (n, SIZE, SIZE)).astype(np.uint8)
    target = np.zeros((n, SIZE, SIZE), bool)
    for i in range(n):
        top, left = rng.integers(2, 12, 2)
        target[i, top : top + 14, left : left + 10] = True
    grey[target] += 100
    grey[:, :, columns:], target[:, :, columns:] = padding, bool(padding)
    extent = np.tile([rows, columns], (n, 1))
    return Pictures(ids=[f"p{i}" for i in range(n)], grey_Nhw=grey, target_Nhw=target, extent_N2=extent)


def fit(config: UnetConfig, given: Pictures) -> Fitted:
    task = UnetTask(key="fold-0", pictures=given, train=np.arange(6), val=np.arange(6, 9))
    trainer = UnetTrainer(task, config, device=CPU)
    for _ in trainer.epochs():
        pass
    return trainer.fitted()


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit(TINY, pictures())


def test_it_learns(fitted: Fitted) -> None:
    assert fitted.status == "done"
    assert min(fitted.val_loss) < 0.6 * fitted.val_loss[0]
    given = pictures()
    for image, logits_hw in predict_unet(fitted.state, TINY, given, np.arange(6, 9), device=CPU):
        found, truth = logits_hw[:, :24] > 0, given.target_Nhw[image, :, :24]
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8


def test_the_epoch_of_the_lowest_validation_loss_is_kept(fitted: Fitted) -> None:
    assert fitted.best_epoch == int(np.argmin(fitted.val_loss)) + 1
    task = UnetTask(key="again", pictures=pictures(), train=np.arange(6), val=np.arange(6, 9))
    trainer = UnetTrainer(task, TINY, device=CPU)
    trainer._network.load_state_dict(dict(fitted.state))
    assert trainer._validate() == pytest.approx(min(fitted.val_loss), rel=1e-6)


def test_padding_changes_nothing(fitted: Fitted) -> None:
    """Neither what the padding of a picture holds, nor what is predicted there."""
    other = fit(replace(TINY, epochs=2), pictures(padding=200))
    same = fit(replace(TINY, epochs=2), pictures())
    assert other.train_loss == same.train_loss
    assert all(torch.equal(tensor, same.state[name]) for name, tensor in other.state.items())
    batch = plain_batch(pictures(), np.arange(3), CPU)
    logits = torch.randn(3, SIZE, SIZE)
    focal = torch.tensor([True])
    changed = torch.where(batch.valid_Bhw, logits, 50.0)
    torch.testing.assert_close(picture_loss(logits, batch, focal), picture_loss(changed, batch, focal))


def test_the_same_twice_and_another_seed(fitted: Fitted) -> None:
    again = fit(TINY, pictures())
    assert again.val_loss == fitted.val_loss
    assert all(torch.equal(tensor, again.state[name]) for name, tensor in fitted.state.items())
    assert fit(replace(TINY, epochs=1, seed=1), pictures()).train_loss[0] != fitted.train_loss[0]


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    found = fit(replace(TINY, lr=1e30, schedule="constant"), pictures())
    assert found.status == DIVERGED
    assert len(found.train_loss) < TINY.epochs
    assert found.best_epoch == 0
    assert not found.state


@pytest.mark.parametrize("optimiser", ["adam", "adamw"])
@pytest.mark.parametrize("loss", ["dicefocal", "dicece"])
def test_every_loss_and_optimiser_trains_in_bf16(loss: str, optimiser: str) -> None:
    config = replace(TINY, loss=loss, optimiser=optimiser, epochs=3)
    task = UnetTask(key="k", pictures=pictures(), train=np.arange(6), val=np.arange(6, 9))
    ends = list(UnetTrainer(task, config, device=CPU, precision="bf16").epochs())
    assert [end.epoch for end in ends] == [1, 2, 3]
    assert ends[-1].train_loss_K[0] < ends[0].train_loss_K[0]
    assert ends[0].keys == ("k",)
    assert ends[0].images == 6


# --- pictures --------------------------------------------------------------------------------------


def test_a_picture_is_standardised_on_the_image_and_zero_on_padding() -> None:
    batch = plain_batch(pictures(padding=90), np.arange(4), CPU)
    assert batch.valid_Bhw.sum((1, 2)).tolist() == [SIZE * 24] * 4
    for image, valid in zip(batch.image_B1hw[:, 0], batch.valid_Bhw, strict=True):
        assert (image[~valid] == 0).all()
        assert image[valid].mean() == pytest.approx(0, abs=1e-5)
        assert image[valid].std(correction=0) == pytest.approx(1, abs=1e-5)
    flat = pictures()
    flat.grey_Nhw[:] = 7
    assert (plain_batch(flat, np.arange(2), CPU).image_B1hw.abs() < 1e-3).all()


def test_no_augmentation_is_the_picture_itself() -> None:
    plain = plain_batch(pictures(), np.arange(2), CPU)
    draws = [Draw.of(STILL, name, seed=0, epoch=0) for name in "ab"]
    still = augmented_batch(pictures(), np.arange(2), CPU, draws)
    torch.testing.assert_close(still.image_B1hw, plain.image_B1hw, rtol=0, atol=1e-3)
    assert torch.equal(still.target_Bhw, plain.target_Bhw)
    assert torch.equal(still.valid_Bhw, plain.valid_Bhw)


def test_a_shift_is_a_share_of_the_image_to_the_right_and_down() -> None:
    draw = Draw(angle=0, scale=1, shift=(0.25, 0.125), gamma=1)
    plain = plain_batch(pictures(), np.arange(2), CPU)
    moved = augmented_batch(pictures(), np.arange(2), CPU, [draw, draw])
    assert torch.equal(moved.target_Bhw[:, 4:, 6:24], plain.target_Bhw[:, :-4, :18])
    assert not moved.valid_Bhw[:, :4].any()
    assert not moved.valid_Bhw[:, :, :6].any()


def test_augmentation_moves_the_target_with_the_image() -> None:
    given = pictures(columns=SIZE)
    given.grey_Nhw[:] = np.where(given.target_Nhw, 255, 0)
    draws = [Draw.of(Augmentation(), name, seed=1, epoch=5) for name in given.ids[:6]]
    batch = augmented_batch(given, np.arange(6), CPU, draws)
    bright = batch.image_B1hw[:, 0] > batch.image_B1hw.amax((1, 2, 3), keepdim=True)[:, 0] / 2
    apart = (bright != batch.target_Bhw) & batch.valid_Bhw
    assert apart.float().mean() < 0.01
    assert (batch.target_Bhw != torch.from_numpy(given.target_Nhw[:6])).any()


def test_a_change_derives_from_seed_identity_and_epoch() -> None:
    draw = Draw.of(Augmentation(), "p0", seed=0, epoch=3)
    assert draw == Draw.of(Augmentation(), "p0", seed=0, epoch=3)
    others = [("p1", 0, 3), ("p0", 1, 3), ("p0", 0, 4)]
    assert all(draw != Draw.of(Augmentation(), name, seed=s, epoch=e) for name, s, e in others)


# --- configuration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 100},
        {"size": 16},
        {"channels": (16,)},
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": 0.0},
        {"lr": float("nan")},
        {"wd": -1.0},
        {"loss": "bce"},
        {"optimiser": "sgd"},
    ],
)
def test_a_config_is_checked_where_it_is_made(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))} of a U-Net"):
        replace(PRESETS["small"], **wrong)
    with pytest.raises(UsageError, match="scale is out of range"):
        Augmentation(scale=1)


def test_the_presets() -> None:
    assert PRESETS["small"].size == 256
    assert PRESETS["full"].size == 512
    assert max(PRESETS["full"].channels) == 512
