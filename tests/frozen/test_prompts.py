from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lungfast.errors import DataError, UsageError
from lungfast.frozen.checkpoints import head_bytes, read_head
from lungfast.frozen.mask_summary import summarise_mask
from lungfast.frozen.nano import read_nano, sam_head_modules
from lungfast.frozen.priors import Prior
from lungfast.frozen.prompt_encoder import FrozenPromptEncoder
from lungfast.frozen.prompts import CachePrompts, PromptConfig, PromptImages, config_from_dict
from lungfast.geometry import Frame
from lungfast.records import Float64, PromptKind, PromptSource, ResizeRule
from tests.frozen.test_priors import LEFT, RIGHT, SIZES, two, union

KINDS: tuple[PromptKind, ...] = get_args(PromptKind)
SIDE = 512


@pytest.fixture(scope="module")
def encoder() -> FrozenPromptEncoder:
    head = read_head(head_bytes(read_nano()))
    return FrozenPromptEncoder(head.prompt_encoder, (32, 32), SIDE)


@pytest.fixture(scope="module")
def reference() -> Any:
    prompt_encoder, _ = sam_head_modules((32, 32), SIDE)
    head = read_head(head_bytes(read_nano()))
    prompt_encoder.load_state_dict(dict(head.prompt_encoder), strict=True)
    return prompt_encoder.requires_grad_(False)


def images_of(make: Any = two, resize: ResizeRule = "longest", views: int = 1) -> PromptImages:
    return PromptImages(
        ids=[f"image-{i}" for i in range(len(SIZES))],
        frames=[Frame.of(size, SIDE, resize) for size in SIZES],
        image_of_row=np.repeat(np.arange(len(SIZES)), views),
        summaries=[summarise_mask(make(size)) for size in SIZES],
    )


def build(
    encoder: FrozenPromptEncoder, config: PromptConfig, images: PromptImages | None = None, seed: int = 5
) -> CachePrompts:
    return CachePrompts.build(
        config, images=images or images_of(), train_images=np.array([0, 1, 2]), encoder=encoder, seed=seed
    )


# --- the frozen prompt encoder equals segment-anything's -------------------------------------------


def test_dense_parts_equal_segment_anything(encoder: FrozenPromptEncoder, reference: Any) -> None:
    assert torch.allclose(encoder.pe_NC, reference.get_dense_pe()[0].flatten(1).T, atol=2e-6)
    assert torch.equal(encoder.dense_C, reference.no_mask_embed.weight[0])


@pytest.mark.parametrize("n_points", [0, 1, 2, 5])
@pytest.mark.parametrize("has_box", [False, True])
def test_tokens_equal_segment_anything(
    encoder: FrozenPromptEncoder, reference: Any, n_points: int, has_box: bool
) -> None:
    """Every (image, instance) is one prompt of segment-anything: atol 1e-5 (phases reach tens of radians)."""
    if n_points == 0 and not has_box:
        with pytest.raises(ValueError, match="points with labels, or a box"):
            encoder.encode()
        return
    rng = np.random.default_rng(n_points)
    points_BIP2 = rng.uniform(-0.5, SIDE, (3, 2, n_points, 2))
    labels_BIP = rng.integers(-1, 2, (3, 2, n_points))
    boxes_BI4 = np.sort(rng.uniform(-0.5, SIDE, (3, 2, 2, 2)), axis=2).reshape(3, 2, 4)
    found_BIPC = encoder.encode(
        points_BIP2=points_BIP2 if n_points else None,
        labels_BIP=labels_BIP if n_points else None,
        boxes_BI4=boxes_BI4 if has_box else None,
    )
    points = (
        torch.from_numpy(points_BIP2).flatten(0, 1).float(),
        torch.from_numpy(labels_BIP).flatten(0, 1).float(),
    )
    boxes = torch.from_numpy(boxes_BI4).flatten(0, 1).float()
    expected, _ = reference(points if n_points else None, boxes if has_box else None, None)
    assert found_BIPC.shape == (3, 2, n_points + (2 if has_box else 1), 256)
    assert found_BIPC.dtype == np.float32
    assert np.abs(found_BIPC.reshape(expected.shape) - expected.numpy()).max() < 1e-5


def test_unknown_labels_are_refused(encoder: FrozenPromptEncoder) -> None:
    with pytest.raises(ValueError, match=r"\[2\]"):
        encoder.encode(points_BIP2=np.zeros((1, 1, 1, 2)), labels_BIP=np.full((1, 1, 1), 2))


def test_importing_prompts_does_not_import_torch() -> None:
    code = "import sys, lungfast.frozen.prompts, lungfast.frozen.encoders; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- configuration ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "circle"},
        {"placement": "grid"},
        {"box": "both"},
        {"points_per_lung": 0},
        {"negative_points": -1},
        {"box_jitter_px": -1},
        {"point_jitter": float("nan")},
    ],
)
def test_config_is_validated(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        PromptConfig(**wrong)


def test_config_json_round_trip() -> None:
    config = PromptConfig(
        kind="both", points_per_lung=3, placement="spread", negative_points=1, box="per-lung"
    )
    assert config_from_dict(json.loads(json.dumps(config.as_dict()))) == config


@pytest.mark.parametrize(
    ("kind", "oracle"),
    [("points", False), ("box", True), ("box-auto", False), ("both", True), ("both-auto", False)],
)
def test_oracles_say_so(encoder: FrozenPromptEncoder, kind: PromptKind, oracle: bool) -> None:
    prompts = build(encoder, PromptConfig(kind=kind))
    assert PromptConfig(kind=kind).is_oracle is oracle
    assert prompts.is_oracle is oracle
    assert prompts.describe()["oracle"] is oracle
    json.dumps(prompts.describe(), allow_nan=False)


# --- tokens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("box", ["whole", "per-lung"])
@pytest.mark.parametrize("make", [two, union])
def test_shapes(encoder: FrozenPromptEncoder, kind: PromptKind, box: Any, make: Any) -> None:
    config = PromptConfig(kind=kind, box=box, points_per_lung=2, negative_points=1)
    prompts: PromptSource = build(encoder, config, images_of(make))
    instances = 2 if box == "per-lung" and kind != "points" else 1
    n_points = 5 if instances == 1 else 3
    expected = {
        "points": n_points + 1,
        "box": 2,
        "box-auto": 2,
        "both": n_points + 2,
        "both-auto": n_points + 2,
    }
    assert (prompts.n_instances, prompts.n_tokens) == (instances, expected[kind])
    for epoch in (None, 0):
        found = prompts.tokens(np.array([3, 0]), epoch=epoch)
        assert found.tokens_BIPC.shape == (2, instances, expected[kind], 256)
        assert found.mask_BIP.shape == found.tokens_BIPC.shape[:3]
        assert found.mask_BIP.all()


@pytest.mark.parametrize("resize", ["longest", "squash"])
def test_one_place_in_portrait_landscape_and_square(encoder: FrozenPromptEncoder, resize: ResizeRule) -> None:
    images = images_of(resize=resize)
    prompts = build(encoder, PromptConfig(kind="both-auto", points_per_lung=2), images)
    for image, frame in enumerate(images.frames):
        points_IN2, boxes_I4 = prompts.coordinates(image, epoch=None)
        assert frame.points_from_input(points_IN2) == pytest.approx(prompts.prior.points_IN2, abs=1e-12)
        corners = frame.points_from_input(boxes_I4.reshape(1, 2, 2)).reshape(1, 4)
        assert corners == pytest.approx(prompts.prior.boxes_I4, abs=1e-12)
        height, width = frame.resized_size
        assert points_IN2[0, 0] == pytest.approx((LEFT[0] * width, LEFT[1] * height), abs=5)


@pytest.mark.parametrize("make", [two, union])
def test_oracle_boxes_are_each_images_own(encoder: FrozenPromptEncoder, make: Any) -> None:
    images = images_of(make)
    whole = build(encoder, PromptConfig(kind="box"), images)
    each = build(encoder, PromptConfig(kind="box", box="per-lung"), images)
    for image, (height, width) in enumerate(frame.resized_size for frame in images.frames):
        _, boxes_14 = whole.coordinates(image, epoch=None)
        _, boxes_24 = each.coordinates(image, epoch=None)
        for box_4, lung in zip(boxes_24, (LEFT, RIGHT), strict=True):
            expected = [(lung[0] - lung[2]) * width, (lung[1] - lung[3]) * height]
            expected += [(lung[0] + lung[2]) * width, (lung[1] + lung[3]) * height]
            assert box_4 + 0.5 == pytest.approx(expected, abs=2.5)
        joined = [*boxes_24[:, :2].min(axis=0), *boxes_24[:, 2:].max(axis=0)]
        assert boxes_14[0] == pytest.approx(joined)


def test_prior_comes_from_training_images_alone(encoder: FrozenPromptEncoder) -> None:
    images = images_of()
    changed = images_of()
    other = {"left": np.ones((50, 50), bool), "right": np.zeros((50, 50), bool)}
    changed.summaries[3] = summarise_mask(other)  # type: ignore[index]
    config = PromptConfig(kind="both-auto", negative_points=2)
    assert build(encoder, config, images).describe() == build(encoder, config, changed).describe()


def test_empty_masks(encoder: FrozenPromptEncoder) -> None:
    images = images_of()
    empty = summarise_mask({"left": np.zeros((9, 9), bool), "right": np.zeros((9, 9), bool)})
    images.summaries[3] = empty  # type: ignore[index]
    prompts = build(encoder, PromptConfig(kind="box", box="per-lung"), images)
    _, boxes_24 = prompts.coordinates(3, epoch=None)
    height, width = images.frames[3].resized_size
    assert boxes_24.tolist() == [[-0.5, -0.5, width - 0.5, height - 0.5]] * 2
    with pytest.raises(DataError, match="every training mask is empty"):
        CachePrompts.build(PromptConfig(), images=images, train_images=np.array([3]), encoder=encoder, seed=0)


def test_a_stored_prior_prompts_another_cache(encoder: FrozenPromptEncoder) -> None:
    source = build(encoder, PromptConfig(points_per_lung=2))
    stored = json.loads(json.dumps(source.describe()))
    target = CachePrompts(
        config=config_from_dict(stored),
        prior=Prior.from_dict(stored["prior"]),
        images=images_of(),
        encoder=encoder,
        seed=stored["seed"],
    )
    rows = np.arange(4)
    expected = source.tokens(rows, epoch=2).tokens_BIPC
    assert np.array_equal(target.tokens(rows, epoch=2).tokens_BIPC, expected)


# --- jitter ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_jitter_depends_on_seed_image_and_epoch_only(encoder: FrozenPromptEncoder, kind: PromptKind) -> None:
    prompts = build(encoder, PromptConfig(kind=kind))
    np.random.seed(1)
    together = prompts.tokens(np.array([0, 1, 2, 3]), epoch=4).tokens_BIPC
    np.random.seed(2)
    prompts.tokens(np.array([2, 2]), epoch=7)
    reordered = prompts.tokens(np.array([3, 1]), epoch=4).tokens_BIPC
    assert np.array_equal(reordered, together[[3, 1]])
    assert np.array_equal(
        build(encoder, prompts.config).tokens(np.array([1]), epoch=4).tokens_BIPC[0], together[1]
    )
    for other in (
        prompts.tokens(np.array([1]), epoch=5),
        build(encoder, prompts.config, seed=6).tokens(np.array([1]), epoch=4),
        prompts.tokens(np.array([1]), epoch=None),
    ):
        assert not np.array_equal(other.tokens_BIPC[0], together[1])


def test_no_jitter_without_an_epoch_or_by_configuration(encoder: FrozenPromptEncoder) -> None:
    still = PromptConfig(kind="both", box_jitter_px=0, point_jitter=0.0)
    prompts = build(encoder, still)
    rows = np.arange(4)
    calm = prompts.tokens(rows, epoch=None).tokens_BIPC
    assert np.array_equal(prompts.tokens(rows, epoch=None).tokens_BIPC, calm)
    assert np.array_equal(prompts.tokens(rows, epoch=3).tokens_BIPC, calm)


def test_rows_of_one_image_are_prompted_alike(encoder: FrozenPromptEncoder) -> None:
    prompts = build(encoder, PromptConfig(), images_of(views=2))
    found = prompts.tokens(np.array([2, 3, 4]), epoch=1).tokens_BIPC
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[1], found[2])


@given(seed=st.integers(0, 2**31), epoch=st.integers(0, 10_000), image=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_jitter_stays_in_bounds(seed: int, epoch: int, image: int) -> None:
    """Boxes grow by at most 19/1024 of the frame and never shrink; everything stays on the image."""
    prompts = build(ENCODERS["nano"], PromptConfig(kind="both", box="per-lung", point_jitter=0.3), seed=seed)
    frame = prompts.images.frames[image]
    points_IN2, boxes_I4 = prompts.coordinates(image, epoch=epoch)
    _, calm_I4 = prompts.coordinates(image, epoch=None)
    grown_I4 = (boxes_I4 - calm_I4) * [-1, -1, 1, 1]
    assert (grown_I4 >= -1e-9).all()
    assert (grown_I4 <= 19 * SIDE / 1024 + 1e-9).all()
    unit_IN2 = frame.points_from_input(points_IN2)
    assert ((unit_IN2 >= -1e-12) & (unit_IN2 <= 1 + 1e-12)).all()


@given(
    size=st.tuples(st.integers(1, 5000), st.integers(1, 5000)),
    point=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    resize=st.sampled_from(["longest", "squash"]),
)
@settings(max_examples=60, deadline=None)
def test_coordinates_round_trip(
    size: tuple[int, int], point: tuple[float, float], resize: ResizeRule
) -> None:
    """A prior point lands on the same normalised place of an image of any size, within the input frame."""
    frame = Frame.of(size, SIDE, resize)
    prior = Prior(
        points_IN2=np.array([[point]]),
        labels_IN=np.ones((1, 1), np.int64),
        boxes_I4=np.array([[0, 0, *point]]),
    )
    images = PromptImages(ids=["a"], frames=[frame], image_of_row=np.array([0]), summaries=[])
    prompts = CachePrompts(
        config=PromptConfig(kind="both-auto"), prior=prior, images=images, encoder=ENCODERS["nano"], seed=0
    )
    points_IN2, boxes_I4 = prompts.coordinates(0, epoch=None)
    assert ((points_IN2 >= -0.5) & (points_IN2 <= SIDE - 0.5)).all()
    assert frame.points_from_input(points_IN2)[0, 0] == pytest.approx(point, abs=1e-12)
    assert frame.points_from_input(boxes_I4[:, 2:])[0] == pytest.approx(point, abs=1e-12)


ENCODERS: dict[str, FrozenPromptEncoder] = {}


@pytest.fixture(autouse=True, scope="module")
def _encoder_for_properties(encoder: FrozenPromptEncoder) -> None:
    ENCODERS["nano"] = encoder  # hypothesis and function arguments: one module-scoped instance


def test_prompts_of_a_view_keep_the_prior_and_follow_the_truth(encoder: FrozenPromptEncoder) -> None:
    images = images_of(views=2)

    def boxes_of_row(row: int) -> Float64:
        """A view's lungs are 5 % further right than the film's."""
        return images.summaries[row // 2].boxes_S4 + (row % 2) * 0.05

    moved = replace(images, boxes_of_row=boxes_of_row)
    for kind in KINDS:
        plain, viewed = (build(encoder, PromptConfig(kind=kind), one) for one in (images, moved))
        (points_IN2, boxes_I4), (view_points_IN2, view_boxes_I4) = (
            viewed.coordinates(0, epoch=3, row=row) for row in (0, 1)
        )
        np.testing.assert_array_equal(points_IN2, view_points_IN2)
        assert (boxes_I4 != view_boxes_I4).any() == plain.is_oracle
        same, other = (viewed.tokens(np.array([row]), epoch=3).tokens_BIPC for row in (0, 1))
        np.testing.assert_array_equal(same, plain.tokens(np.array([0]), epoch=3).tokens_BIPC)
        assert (same != other).any() == plain.is_oracle
