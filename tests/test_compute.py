"""Device, precision and memory are asked for in words and answered in values, or refused in one line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lungfast import compute
from lungfast.errors import UsageError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8GB", 8_000_000_000), ("500 MiB", 500 << 20), ("2g", 2_000_000_000), ("1.5KiB", 1536), ("77", 77)],
)
def test_sizes(text: str, expected: int) -> None:
    assert compute.parse_memory(text) == expected


@pytest.mark.parametrize("text", ["", "much", "-3GB", "0", "8 bits", "GB"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError, match="--memory is not a size"):
        compute.parse_memory(text)


@pytest.mark.parametrize(("free", "expected"), [(900, 300), (600, 300), (599, 299), (100, 50)])
def test_auto_memory_is_a_third_of_all_and_at_most_half_of_what_is_free(
    free: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "total_memory", lambda: 900)
    monkeypatch.setattr(compute, "free_memory", lambda: free)
    assert compute.parse_memory("auto") == expected


def test_memory_is_what_the_tightest_control_group_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "_groups", lambda: [(900, 100), (600, 300), (700, 0)])
    assert (compute.total_memory(), compute.free_memory()) == (600, 300)
    monkeypatch.setattr(compute, "_groups", lambda: [(600, 601)])
    assert compute.free_memory() == 0


def test_precision_follows_the_hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "cpu_has_bf16", lambda: True)
    assert compute.resolve_precision("auto", CPU).name == "bf16"
    monkeypatch.setattr(compute, "cpu_has_bf16", lambda: False)
    assert compute.resolve_precision("auto", CPU).name == "fp32"
    assert compute.resolve_precision("bf16", CPU).reason == "asked for"


def test_an_older_gpu_gets_fp16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    assert compute.resolve_precision("auto", torch.device("cuda")).name == "fp16"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    assert compute.resolve_precision("auto", torch.device("cuda")).name == "bf16"


def test_a_cache_s_precision_where_the_device_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    like, gpu = compute.encoder_precision_like, torch.device("cuda")
    assert [like(made, gpu) for made in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp16"]
    monkeypatch.setattr(compute, "cpu_has_bf16", lambda: True)
    assert [like(made, CPU) for made in ("fp32", "bf16", "fp16")] == ["fp32", "bf16", "fp32"]
    monkeypatch.setattr(compute, "cpu_has_bf16", lambda: False)
    assert like("bf16", CPU) == "fp32"


@pytest.mark.parametrize("name", ["half", "fp16"])
def test_precision_that_cannot_be(name: str) -> None:
    with pytest.raises(UsageError, match="--precision"):
        compute.resolve_precision(name, CPU)


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert compute.resolve_device("auto") == CPU
    with pytest.raises(UsageError, match="without such a CUDA device"):
        compute.resolve_device("cuda")
    for name in ("abacus", "mps", "meta"):
        with pytest.raises(UsageError, match="--device is not a device"):
            compute.resolve_device(name)


def test_hardware_is_json() -> None:
    found = compute.hardware().as_dict()
    assert found["cores"] == compute.cpu_count()
    assert found["cpu"]


def test_hardware_names_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H200")
    assert compute.hardware("cuda:1").device == "cuda:1 (NVIDIA H200)"


def test_what_is_compiled_is_kept_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "undone afterwards")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compute.keep_compiled()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "lungfast" / "compiled")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "elsewhere")
    compute.keep_compiled()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "elsewhere"


def group(system: Path, folder: str, **files: int | str) -> None:
    where = system / "sys/fs/cgroup" / folder
    where.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (where / name.replace("__", ".")).write_text(f"{content}\n")


def test_page_cache_in_a_control_group_is_free(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/pod/box\n")
    assert compute._groups(tmp_path) == []
    group(tmp_path, "pod/box", memory__max=16, memory__current=15, memory__stat="anon 1\ninactive_file 14")
    group(tmp_path, "pod", memory__max="max", memory__current=15)
    assert compute._groups(tmp_path) == [(16, 1)]
    group(tmp_path, "pod", memory__max=12)
    assert compute._groups(tmp_path) == [(16, 1), (12, 15)]


def test_control_groups_of_the_first_version_and_of_a_container(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("5:cpu:/\n4:memory:/docker/abc\n0::/\n")
    group(tmp_path, "memory", memory__limit_in_bytes=16, memory__usage_in_bytes=9)
    group(tmp_path, "memory", memory__stat="inactive_file 1\ntotal_inactive_file 4")
    assert compute._groups(tmp_path) == [(16, 5)]
