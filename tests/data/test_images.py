"""Decoding: every mode and depth that users have, and one clear line for what is no image."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lungfast.data.images import content_sha256, read_image, read_mask, to_8_bit
from lungfast.errors import DataError

GREY_HW = np.random.default_rng(0).integers(0, 256, (13, 17)).astype(np.uint8)
DISC_HW = np.hypot(*(np.mgrid[:13, :17] - np.array([6, 8])[:, None, None])) < 4.5


def png(path: Path, values_HWC: np.ndarray, *, bits: int) -> Path:
    """A PNG encoder of its own: Pillow writes no 16-bit colour."""
    height, width, channels = values_HWC.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in values_HWC)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def saved(path: Path, image: Image.Image | np.ndarray, **options: object) -> Path:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "PNG", "tif", "tiff"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_equal_channels_and_8_bit_are_untouched(tmp_path: Path, mode: str, suffix: str) -> None:
    image = Image.fromarray(GREY_HW)
    if mode == "P":
        image.putpalette([v for v in range(256) for _ in range(3)])
    else:
        image = image.convert(mode)
    path = saved(tmp_path / f"a.{suffix}", image)
    with Image.open(path) as opened:
        assert opened.mode == mode
    assert np.array_equal(read_image(path), GREY_HW)


def test_transparent_pixels_keep_their_grey(tmp_path: Path) -> None:
    image = Image.fromarray(GREY_HW).convert("RGBA")
    image.putalpha(Image.fromarray(GREY_HW[::-1].copy()))
    assert np.array_equal(read_image(saved(tmp_path / "a.png", image)), GREY_HW)


def test_palette_with_transparency_warns_nobody(tmp_path: Path) -> None:
    image = Image.fromarray(GREY_HW)
    image.putpalette([v for v in range(256) for _ in range(3)])
    path = saved(tmp_path / "a.png", image, transparency=bytes(range(256)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(read_image(path), GREY_HW)


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", Image.fromarray(DISC_HW))
    assert np.array_equal(read_image(path), DISC_HW * np.uint8(255))


def test_jpeg_grey_and_colour(tmp_path: Path) -> None:
    smooth_HW = np.add.outer(np.arange(64), np.arange(80)).astype(np.uint8)
    for mode in ("L", "RGB", "CMYK"):
        path = saved(tmp_path / f"{mode}.jpg", Image.fromarray(smooth_HW).convert(mode), quality=95)
        assert np.abs(read_image(path).astype(int) - smooth_HW).max() <= 8


def test_colour_becomes_luma(tmp_path: Path) -> None:
    colour_HWC = np.random.default_rng(1).integers(0, 256, (9, 8, 3)).astype(np.uint8)
    expected_HW = colour_HWC @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read_image(saved(tmp_path / "a.png", colour_HWC)) - expected_HW).max() <= 0.51


@pytest.mark.parametrize("top", [300, 4095, 65535])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_deep_grey_uses_the_full_range_and_keeps_the_order(tmp_path: Path, top: int, suffix: str) -> None:
    deep_HW = np.linspace(40, top, 60 * 50).reshape(60, 50).astype(np.uint16)
    out_HW = read_image(saved(tmp_path / f"a.{suffix}", deep_HW))
    assert out_HW.min() == 0
    assert out_HW.max() == 255
    assert (np.diff(out_HW.ravel().astype(int)) >= 0).all()
    exact_HW = 255.0 * (deep_HW - 40.0) / (top - 40)
    assert np.abs(out_HW - exact_HW).max() < 2.0, "0.1 % clipped at each end moves a ramp by less than 2"


def test_a_burned_in_label_does_not_flatten_the_anatomy() -> None:
    deep_HW = np.linspace(0, 4095, 200 * 200).reshape(200, 200).astype(np.uint16)
    plain_HW = to_8_bit(deep_HW)
    deep_HW[:4, :5] = 65535
    assert np.abs(to_8_bit(deep_HW)[4:].astype(int) - plain_HW[4:]).max() <= 1


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_counted_and_sorted_quantiles_agree(dtype: type) -> None:
    deep_HW = np.random.default_rng(2).integers(0, 4096, (50, 60))
    assert np.array_equal(to_8_bit(deep_HW.astype(dtype)), to_8_bit(deep_HW.astype(np.float64)))


def test_signed_and_float_files(tmp_path: Path) -> None:
    ramp_HW = np.linspace(-1000, 3000, 40 * 40).reshape(40, 40)
    for dtype in (np.int32, np.float32):
        out_HW = read_image(saved(tmp_path / "a.tif", ramp_HW.astype(dtype)))
        assert np.abs(out_HW - (ramp_HW + 1000) * 255 / 4000).max() < 2.0


def test_min_is_white_is_inverted_at_16_bit(tmp_path: Path) -> None:
    deep_HW = np.linspace(0, 4095, 30 * 30).reshape(30, 30).astype(np.uint16)
    plain_HW = read_image(saved(tmp_path / "a.tif", deep_HW))
    inverted_HW = read_image(saved(tmp_path / "b.tif", deep_HW, tiffinfo={262: 0}))
    assert np.abs(255 - plain_HW.astype(int) - inverted_HW).max() <= 1


def test_constant_and_8_bit_values_in_deep_files(tmp_path: Path) -> None:
    constant_HW = np.full((5, 6), 3000, np.uint16)
    assert not read_image(saved(tmp_path / "a.png", constant_HW)).any()
    assert np.array_equal(read_image(saved(tmp_path / "b.png", GREY_HW.astype(np.uint16))), GREY_HW)
    mostly_black_HW = np.zeros((100, 100), np.uint16)
    mostly_black_HW[0, 0] = 4000
    assert read_image(saved(tmp_path / "c.png", mostly_black_HW))[0, 0] == 255


def test_16_bit_colour_and_alpha(tmp_path: Path) -> None:
    ramp_HW = np.linspace(0, 65535, 40 * 40).reshape(40, 40)
    for channels in (2, 3, 4):
        deep_HWC = np.repeat(ramp_HW[..., None], channels, 2)
        if channels in (2, 4):
            deep_HWC[..., -1] = 65535
        out_HW = read_image(png(tmp_path / "a.png", deep_HWC, bits=16))
        assert np.abs(out_HW - ramp_HW / 257).max() < 2.0
    with pytest.raises(DataError, match="16-bit grey"):
        read_image(png(tmp_path / "b.png", np.repeat(ramp_HW[..., None] / 16, 3, 2), bits=16))


def test_a_full_size_montgomery_image_does_not_warn(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", np.zeros((4020, 4892), np.uint8), compress_level=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path).shape == (4020, 4892)


def mask_variants() -> dict[str, Image.Image | np.ndarray]:
    disc = DISC_HW.astype(np.uint8)
    white = Image.new("RGBA", (17, 13), "white")
    white.putalpha(Image.fromarray(disc * 255))
    cut_out = Image.fromarray(np.stack([disc * 255] * 4, axis=2))
    label_map = Image.fromarray(disc)
    label_map.putpalette([0, 0, 0, 128, 0, 0])
    soft = np.where(DISC_HW, 140, 100).astype(np.uint8)
    soft[0, 0], soft[6, 8] = 127, 128
    return {
        "0/1": disc,
        "0/255": disc * 255,
        "0/7": disc * 7,
        "one bit": Image.fromarray(DISC_HW),
        "16 bit 0/1": disc.astype(np.uint16),
        "16 bit 0/255": disc.astype(np.uint16) * 255,
        "16 bit full": disc.astype(np.uint16) * 65535,
        "grey and alpha": Image.fromarray(disc * 255).convert("LA"),
        "RGB": Image.fromarray(disc * 255).convert("RGB"),
        "red": np.stack([disc * 255, disc * 0, disc * 0], axis=2),
        "white, alpha is the mask": white,
        "white on transparent": cut_out,
        "palette": label_map,
        "soft": soft,
    }


@pytest.mark.parametrize("kind", mask_variants())
def test_masks(tmp_path: Path, kind: str) -> None:
    mask_HW = read_mask(saved(tmp_path / "a.png", mask_variants()[kind]))
    assert mask_HW.dtype == bool
    assert np.array_equal(mask_HW, DISC_HW)


def test_soft_masks_split_at_half(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8)[None]
    assert np.array_equal(read_mask(saved(tmp_path / "a.png", levels)), levels > 127)
    deep = np.arange(0, 65536, 13, dtype=np.uint16)[None]
    assert np.array_equal(read_mask(saved(tmp_path / "b.png", deep)), deep > deep.max() / 2)
    unit = np.linspace(0, 1, 50, dtype=np.float32)[None]
    assert np.array_equal(read_mask(saved(tmp_path / "c.tif", unit)), unit > 0.5)


@pytest.mark.parametrize(("value", "expected"), [(0, False), (1, True), (255, True)])
def test_constant_masks(tmp_path: Path, value: int, expected: bool) -> None:
    mask_HW = read_mask(saved(tmp_path / "a.png", np.full((4, 5), value, np.uint8)))
    assert (mask_HW == expected).all()


def test_a_label_map_is_refused_by_name(tmp_path: Path) -> None:
    path = saved(tmp_path / "labels.png", np.array([[0, 1, 2]], np.uint8))
    with pytest.raises(DataError, match=r"labels\.png is not a mask; found several values between 0 and 2"):
        read_mask(path)


@pytest.mark.parametrize("read", [read_image, read_mask])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tif"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9])
def test_truncated_files_give_one_line(tmp_path: Path, read, suffix: str, share: float) -> None:
    whole = saved(
        tmp_path / f"whole.{suffix}", np.random.default_rng(0).integers(0, 256, (90, 80)).astype(np.uint8)
    )
    path = tmp_path / f"half.{suffix}"
    path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_image(tmp_path: Path) -> None:
    text = tmp_path / "text.png"
    text.write_text("not an image")
    with pytest.raises(DataError, match="not an image"):
        read_image(text)
    with pytest.raises(DataError, match="no such file"):
        read_image(tmp_path / "absent.png")
    with pytest.raises(DataError, match="cannot read"):
        read_image(tmp_path)
    with pytest.raises(DataError, match="not finite"):
        read_image(saved(tmp_path / "nan.tif", np.array([[0.0, np.nan]], np.float32)))


def test_cielab_colours(tmp_path: Path) -> None:
    half = Image.new("LAB", (8, 8), (255, 128, 128))
    half.paste((0, 128, 128), (0, 0, 4, 8))
    path = saved(tmp_path / "lab.tif", half)
    assert (read_image(path)[:, 4:] > 250).all()
    assert (read_image(path)[:, :4] < 5).all()
    assert read_mask(path)[:, 4:].all()


def test_content_hash_follows_pixels_and_size_only(tmp_path: Path) -> None:
    as_png = read_image(saved(tmp_path / "a.png", GREY_HW))
    as_tif = read_image(saved(tmp_path / "b.tif", Image.fromarray(GREY_HW).convert("RGB")))
    assert content_sha256(as_png) == content_sha256(as_tif)
    assert content_sha256(GREY_HW.T) != content_sha256(GREY_HW)
    zeros = np.zeros((4, 6), np.uint8)
    assert content_sha256(zeros) != content_sha256(zeros.reshape(6, 4))
    changed_HW = GREY_HW.copy()
    changed_HW[3, 3] ^= 1
    assert content_sha256(changed_HW) != content_sha256(GREY_HW)
