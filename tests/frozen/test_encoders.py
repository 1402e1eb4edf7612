from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT

from lungfast.errors import CheckpointError, UsageError
from lungfast.frozen.checkpoints import OFFICIAL, read_head
from lungfast.frozen.encoders import Encoder, fast, load_encoder, nano_notice
from lungfast.frozen.nano import NANO, NANO_PATH, NANO_SHA256, read_nano
from lungfast.records import UInt8

CPU = torch.device("cpu")
MIXED_SIZES = [(300, 200), (200, 301), (128, 128), (600, 37), (512, 512)]


def images(sizes: list[tuple[int, int]], seed: int = 0) -> list[UInt8]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, size, np.uint8) for size in sizes]


@pytest.fixture(scope="module")
def nano() -> Encoder:
    return load_encoder(device=CPU)


def test_vit_b_equals_sam_predictor(vit_b: Any, vit_b_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A portrait image through SamPredictor.set_image: relative 1e-5 of the largest feature."""
    monkeypatch.setenv("LUNGFAST_WEIGHTS", str(vit_b_file.parent))
    encoder = load_encoder("vit_b", device=CPU)
    (image_HW,) = images([(490, 402)])
    predictor = SamPredictor(vit_b)
    predictor.set_image(np.repeat(image_HW[:, :, None], 3, axis=2))
    expected_NC = predictor.features[0].flatten(1).T.numpy()
    found_BNC = encoder.encode([image_HW])
    assert found_BNC.shape == (1, 4096, 256)
    assert found_BNC.dtype == np.float32
    assert np.abs(found_BNC[0] - expected_NC).max() <= 1e-5 * np.abs(expected_NC).max()
    assert (encoder.spec.name, encoder.spec.input_size, encoder.spec.grid) == ("vit_b", 1024, (64, 64))
    assert encoder.spec.weights_sha256 == hashlib.sha256(vit_b_file.read_bytes()).hexdigest()
    head = read_head(encoder.head)
    assert torch.equal(head.mask_decoder["iou_token.weight"], vit_b.mask_decoder.iou_token.weight)


def test_a_cpu_computes_the_stock_function() -> None:
    """A narrow encoder with SAM's 64 x 64 tokens, relative positions, both kinds of block: 1e-5 relative."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = ImageEncoderViT(
            embed_dim=16, depth=2, num_heads=2, use_rel_pos=True, window_size=14, global_attn_indexes=(1,)
        )
        for parameter in encoder.parameters():
            parameter.data.normal_(0, 0.2).requires_grad_(False)
        image_B3SS = torch.randn(2, 3, 1024, 1024)
    with torch.inference_mode():
        stock = encoder(image_B3SS)
        found = fast(encoder, "fp32", CPU)(image_B3SS)
    assert (found - stock).abs().max() <= 1e-5 * stock.abs().max()


def test_images_side_by_side_are_images_one_by_one() -> None:
    nano = load_encoder("nano", device=CPU)
    rng = np.random.default_rng(0)
    films = [rng.integers(0, 256, (300, 200 + 20 * i), np.uint8) for i in range(3)]
    together_BNC = nano.encode(films)
    for film_HW, features_NC in zip(films, together_BNC, strict=True):
        np.testing.assert_allclose(nano.encode([film_HW])[0], features_NC, atol=1e-5)


def test_kind_comes_from_the_file(vit_b_file: Path) -> None:
    encoder = load_encoder(checkpoint=vit_b_file, device=CPU, resize="squash")
    assert (encoder.spec.name, encoder.spec.resize) == ("vit_b", "squash")
    for name in ("vit_h", "nano"):
        with pytest.raises(UsageError, match=f"--encoder {name} contradicts .* found vit_b"):
            load_encoder(name, checkpoint=vit_b_file, device=CPU)


def test_unknown_encoder_and_absent_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LUNGFAST_WEIGHTS", raising=False)
    with pytest.raises(UsageError, match="found vit_x"):
        load_encoder("vit_x", device=CPU)
    with pytest.raises(CheckpointError) as caught:
        load_encoder("vit_l", device=CPU)
    for part in ("sam_vit_l_0b3195.pth", "https://", "1.25 GB", OFFICIAL["vit_l"].sha256):
        assert part in str(caught.value)


def test_nano_notice_names_the_file() -> None:
    for part in ("not SAM", "sam_vit_h_4b8939.pth", "https://", "2.56 GB", OFFICIAL["vit_h"].sha256):
        assert part in nano_notice()
    assert "\n" not in nano_notice()


def test_nano_file_is_the_recorded_one_and_small() -> None:
    content = NANO_PATH.read_bytes()
    assert hashlib.sha256(content).hexdigest() == NANO_SHA256
    assert len(content) <= 16_000_000


def test_damaged_nano_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nano.safetensors"
    path.write_bytes(NANO_PATH.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="damaged"):
        read_nano(path)
    with pytest.raises(CheckpointError, match="cannot read"):
        read_nano(tmp_path / "absent")


def test_nano_features_fit_float16_and_tell_images_apart(nano: Encoder) -> None:
    assert (nano.spec.name, nano.spec.input_size, nano.spec.grid) == ("nano", NANO.input_size, NANO.grid)
    features_BNC = nano.encode(images([(256, 256)] * 2))
    assert features_BNC.shape == (2, nano.spec.n_tokens, 256)
    assert 1 < np.abs(features_BNC).max() < 100
    assert np.abs(features_BNC - features_BNC.astype(np.float16)).max() < 4e-3
    assert np.abs(features_BNC[0] - features_BNC[1]).mean() > 0.05
    assert features_BNC.std(axis=1).mean() > 0.2  # tokens differ from each other


def test_a_batch_equals_single_images(nano: Encoder) -> None:
    batch = images(MIXED_SIZES)
    together_BNC = nano.encode(batch)
    for image_HW, expected_NC in zip(batch, together_BNC, strict=True):
        assert np.abs(nano.encode([image_HW])[0] - expected_NC).max() < 2e-5


def test_preparing_first_changes_nothing(nano: Encoder) -> None:
    batch = images(MIXED_SIZES)
    prepared = [nano.prepare(image_HW) for image_HW in batch]
    assert all(max(image_HW.shape) == NANO.input_size for image_HW in prepared)
    assert np.array_equal(nano.encode(prepared), nano.encode(batch))


def test_padding_is_zero_after_normalising(nano: Encoder) -> None:
    padded_B3SS = nano._padded_B3SS([np.full((NANO.input_size, 100), 255, np.uint8)])
    assert torch.all(padded_B3SS[..., 100:] == 0)
    mean, std = nano.spec.pixel_mean, nano.spec.pixel_std
    expected_3 = [(255 - m) / s for m, s in zip(mean, std, strict=True)]
    assert padded_B3SS[0, :, 5, 5].tolist() == pytest.approx(expected_3, rel=1e-6)


def test_squash_ignores_the_aspect() -> None:
    encoder = load_encoder(resize="squash", device=CPU)
    assert encoder.prepare(images([(300, 200)])[0]).shape == (NANO.input_size, NANO.input_size)


def test_bf16_is_near_and_says_so(nano: Encoder) -> None:
    encoder = load_encoder(device=CPU, precision="bf16")
    batch = images([(256, 200)])
    exact_BNC, near_BNC = nano.encode(batch), encoder.encode(batch)
    assert near_BNC.dtype == np.float32
    assert 0 < np.abs(near_BNC - exact_BNC).max() < 0.1 * np.abs(exact_BNC).max()
    assert encoder.compute == {"dtype": "bf16", "device": "cpu"}
    assert nano.compute == {"dtype": "fp32", "device": "cpu"}
