from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT

from lungfast.errors import CheckpointError, LungfastError
from lungfast.frozen.checkpoints import (
    OFFICIAL,
    export_checkpoint,
    find_checkpoint,
    head_bytes,
    image_encoder,
    read_checkpoint,
    read_head,
)
from lungfast.frozen.nano import read_nano, sam_head_modules


class Touch:
    """A pickle that creates a file when it is executed."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


def fails(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    line = str(caught.value)
    assert "\n" not in line
    assert str(path) in line
    return line


def test_reads_and_recognises_vit_b(vit_b: Any, vit_b_file: Path) -> None:
    checkpoint = read_checkpoint(vit_b_file)
    assert checkpoint.kind == "vit_b"
    assert len(checkpoint.sha256) == 64
    for name, value in vit_b.state_dict().items():
        assert torch.equal(checkpoint.state[name], value), name


@pytest.mark.parametrize("kind", ["vit_h", "vit_l", "vit_b"])
def test_architecture_costs_no_memory(kind: Any) -> None:
    assert {parameter.device.type for parameter in image_encoder(kind).parameters()} == {"meta"}


def test_wrapped_state_dict(vit_b: Any, tmp_path: Path) -> None:
    half = {name: value.half() for name, value in vit_b.state_dict().items()}
    path = tmp_path / "finetuned.pth"
    torch.save({"model": half, "epoch": 3}, path)
    assert read_checkpoint(path).kind == "vit_b"


def test_missing_and_unexpected_keys_are_named(vit_b: Any, tmp_path: Path) -> None:
    state = {k: v for k, v in vit_b.state_dict().items() if k != "mask_decoder.iou_token.weight"}
    state["mask_decoder.hf_token.weight"] = torch.zeros(1, 256)  # SAM-HQ has such a token
    path = tmp_path / "hq.pth"
    torch.save(state, path)
    line = fails(path)
    assert "1 missing (mask_decoder.iou_token.weight)" in line
    assert "1 unexpected (mask_decoder.hf_token.weight)" in line


def test_wrong_shape_is_named(vit_b: Any, tmp_path: Path) -> None:
    state = {**vit_b.state_dict(), "image_encoder.pos_embed": torch.zeros(1, 32, 32, 768)}
    path = tmp_path / "small.pth"
    torch.save(state, path)
    assert "1 of another shape (image_encoder.pos_embed)" in fails(path)


def test_another_model(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    assert "another model; found 1 tensors such as conv1.weight" in fails(path)
    torch.save(read_nano(), path)
    assert "another model" in fails(path)
    narrow = ImageEncoderViT(embed_dim=192, depth=4, num_heads=6)
    torch.save({f"image_encoder.{name}": value for name, value in narrow.state_dict().items()}, path)
    assert "width 192 and depth 4" in fails(path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, {3: torch.zeros(1)}])
def test_not_a_state_dict(content: Any, tmp_path: Path) -> None:
    path = tmp_path / "list.pth"
    torch.save(content, path)
    assert "not a state dict" in fails(path)


@pytest.mark.parametrize("size", [0, 10, 1000, 1_000_000])
def test_truncated(vit_b_file: Path, tmp_path: Path, size: int) -> None:
    path = tmp_path / "half.pth"
    with vit_b_file.open("rb") as file:
        path.write_bytes(file.read(size))
    assert "damaged or is not a PyTorch file" in fails(path)


def test_text_and_folder_and_absent(tmp_path: Path) -> None:
    path = tmp_path / "page.pth"
    path.write_text("<html>404 not found</html>\n" * 50)
    assert "damaged or is not a PyTorch file" in fails(path)
    path.write_bytes(b"\x65" * 40)
    assert "found neither an archive nor a pickle" in fails(path)
    assert "a folder" in fails(tmp_path)
    assert "no such file" in fails(tmp_path / "absent.pth")


@pytest.mark.parametrize("form", ["zip", "pickle", "legacy"])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, form: str) -> None:
    marker, path = tmp_path / "executed", tmp_path / "evil.pth"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Touch(marker)))
    else:
        torch.save({"a": Touch(marker)}, path, _use_new_zipfile_serialization=form == "zip")
    line = fails(path)
    assert "holds code or objects" in line
    assert ("bare pickle" if form == "pickle" else "mkdir") in line
    assert not marker.exists()
    with path.open("rb") as file:  # the trap itself works
        if form == "pickle":
            pickle.load(file)
        else:
            torch.load(file, weights_only=False)
    assert marker.exists()


def test_official_files_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LUNGFAST_WEIGHTS", raising=False)
    assert find_checkpoint("vit_h") is None
    monkeypatch.setenv("LUNGFAST_WEIGHTS", str(tmp_path))
    assert find_checkpoint("vit_h") is None
    path = tmp_path / "sam_vit_h_4b8939.pth"
    path.touch()
    assert find_checkpoint("vit_h") == path
    assert find_checkpoint("vit_l") is None
    assert OFFICIAL["vit_h"].url == "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth"


def test_head_round_trip_loads_strictly(vit_b: Any) -> None:
    head = read_head(head_bytes(vit_b.state_dict()))
    prompt_encoder, mask_decoder = sam_head_modules((64, 64), 1024)
    prompt_encoder.load_state_dict(dict(head.prompt_encoder), strict=True)
    mask_decoder.load_state_dict(dict(head.mask_decoder), strict=True)
    for name, value in vit_b.mask_decoder.state_dict().items():
        assert torch.equal(head.mask_decoder[name], value)
    assert head_bytes(vit_b.state_dict()) == head_bytes(dict(reversed(vit_b.state_dict().items())))


def test_a_head_that_no_step_has_moved_is_known(vit_b: Any) -> None:
    fresh = read_head(head_bytes(vit_b.state_dict()))
    assert fresh.is_untrained
    moved = dict(fresh.mask_decoder)
    moved["transformer.layers.1.norm2.bias"] = moved["transformer.layers.1.norm2.bias"] + 1e-4
    assert not replace(fresh, mask_decoder=moved).is_untrained
    assert not read_head(head_bytes(read_nano())).is_untrained


def test_head_is_strict() -> None:
    state = read_nano()
    del state["prompt_encoder.no_mask_embed.weight"]
    with pytest.raises(CheckpointError, match=r"1 missing \(prompt_encoder.no_mask_embed.weight\)"):
        head_bytes(state)
    with pytest.raises(CheckpointError, match="not safetensors"):
        read_head(b"nonsense")


def test_export_loads_in_segment_anything(vit_b: Any, vit_b_file: Path, tmp_path: Path) -> None:
    _, decoder = sam_head_modules((64, 64), 1024)
    out = tmp_path / "lungs.pth"
    export_checkpoint(vit_b_file, decoder.state_dict(), out)
    loaded = sam_model_registry["vit_b"](checkpoint=out).state_dict()
    for name, value in vit_b.state_dict().items():
        room, _, inner = name.partition(".")
        expected = decoder.state_dict()[inner] if room == "mask_decoder" else value
        assert torch.equal(loaded[name], expected), name
    assert abs(out.stat().st_size / vit_b_file.stat().st_size - 1) < 0.01
    assert list(tmp_path.iterdir()) == [out]


def test_export_refuses_another_decoder_and_leaves_nothing(vit_b_file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not SAM's mask decoder"):
        export_checkpoint(vit_b_file, {"iou_token.weight": torch.zeros(1, 256)}, tmp_path / "out.pth")
    _, decoder = sam_head_modules((64, 64), 1024)
    with pytest.raises(LungfastError, match="cannot write"):
        export_checkpoint(vit_b_file, decoder.state_dict(), tmp_path / "absent" / "out.pth")
    assert not list(tmp_path.iterdir())
