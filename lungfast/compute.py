"""The machine: device, precision, threads, memory. Asked once at the edge, then passed down as values."""

from __future__ import annotations

import os
import platform
import re
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lungfast.errors import UsageError
from lungfast.records import PrecisionName

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Precision:
    """The training arithmetic that was chosen, and why (recorded with the run)."""

    name: PrecisionName
    reason: str


def resolve_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UsageError("--device is not a device", found=name, expected="auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"--device {name} without such a CUDA device",
            found=f"{torch.cuda.device_count()} usable",
            fix="use --device cpu",
        )
    return device


def resolve_precision(name: str, device: torch.device) -> Precision:
    """``auto``: bf16 where the hardware multiplies it natively, fp16 on older GPUs, else fp32."""
    import torch

    if name != "auto":
        if name not in {"fp32", "bf16", "fp16"}:
            raise UsageError("--precision is unknown", found=name, expected="auto, fp32, bf16 or fp16")
        if name == "fp16" and device.type == "cpu":
            raise UsageError("--precision fp16 needs a GPU", found="cpu", fix="use --precision auto")
        return Precision(name=name, reason="asked for")  # type: ignore[arg-type]
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        if major >= 8:
            return Precision(
                name="bf16", reason=f"{torch.cuda.get_device_name(device)} multiplies bf16 natively"
            )
        return Precision(name="fp16", reason=f"{torch.cuda.get_device_name(device)} has no native bf16")
    if cpu_has_bf16():
        return Precision(name="bf16", reason="this CPU multiplies bf16 natively")
    return Precision(name="fp32", reason="this CPU has no native bf16")


def resolve_encoder_precision(name: str, device: torch.device) -> PrecisionName:
    """``auto``: the reduced type on a GPU; fp32 on a CPU, where a pass is made for its exact numbers."""
    return "fp32" if name == "auto" and device.type == "cpu" else resolve_precision(name, device).name


def encoder_precision_like(made: str, device: torch.device) -> PrecisionName:
    """That of a cache, for more images of the same run: fp32 where this device has not got it natively."""
    reduced: PrecisionName = "fp16" if made == "fp16" else "bf16"
    has_it = device.type == "cuda" or (reduced == "bf16" and cpu_has_bf16())
    return reduced if made == reduced and has_it else "fp32"


def cpu_has_bf16() -> bool:
    """AVX-512 BF16 or AMX on x86; asked of the kernel, as torch's own query is private."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return flags is not None and bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags.group(1).split()))


def cpu_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parse_memory(text: str) -> int:
    """``8GB``, ``500 MiB``, ``2g`` -> bytes; ``auto`` -> a third of the machine's, at most half of the free.

    A share of the machine's does not change from start to start: stack widths, and with them the last digits
    of results, stay the same where two thirds are free.
    """
    if text == "auto":
        return min(total_memory() // 3, free_memory() // 2)
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kmgt]?)(i?)b?\s*", text.lower())
    if not match or float(match.group(1)) <= 0:
        raise UsageError("--memory is not a size", found=repr(text), expected="auto, or a size such as 8GB")
    base = 1024 if match.group(3) else 1000
    return int(float(match.group(1)) * base ** " kmgt".index(match.group(2) or " "))


def free_memory() -> int:
    """Bytes to be had without swapping, and no more than the process's control group allows."""
    text = Path("/proc/meminfo").read_text() if Path("/proc/meminfo").exists() else ""
    match = re.search(r"MemAvailable:\s*(\d+) kB", text)
    free = int(match.group(1)) * 1024 if match else 4 << 30
    return min([free, *(max(0, limit - used) for limit, used in _groups())])


def total_memory() -> int:
    """Bytes of the machine, or that the process's control group allows."""
    return min([_machine_memory() or 4 << 30, *(limit for limit, _ in _groups())])


def _machine_memory() -> int:
    """Bytes that are built in, 0 where the system does not say."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0


@dataclass(frozen=True)
class _Hierarchy:
    """Where control groups of one version of the kernel's interface say what they allow and hold."""

    root: str
    controllers: str
    limit: str
    used: str
    page_cache: str


_HIERARCHIES = (
    _Hierarchy("sys/fs/cgroup", "", "memory.max", "memory.current", "inactive_file"),
    _Hierarchy(
        "sys/fs/cgroup/memory",
        "memory",
        *("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ),
)


def _groups(system: Path = Path("/")) -> list[tuple[int, int]]:
    """(bytes allowed, bytes held) of each control group around this process that sets a bound.

    Pages of files that can be dropped at once are not held: ``embed`` fills them up to the bound.
    """
    found = []
    for version in _HIERARCHIES:
        root = system / version.root
        for line in _text(system / "proc/self/cgroup").splitlines():
            _, controllers, own = line.split(":", 2)
            if version.controllers not in controllers.split(","):
                continue
            group = root / own.lstrip("/")
            for folder in (group, *group.parents):
                limit, used = (_text(folder / name).strip() for name in (version.limit, version.used))
                if limit.isdigit() and used.isdigit() and root in (folder, *folder.parents):
                    cached = re.search(rf"^{version.page_cache} (\d+)$", _text(folder / "memory.stat"), re.M)
                    found.append((int(limit), int(used) - (int(cached.group(1)) if cached else 0)))
    return found


def _text(path: Path) -> str:
    """What stands in a file of the system's, nothing where it is not to be had."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def keep_compiled() -> None:
    """What torch.compile makes is kept in the user's cache folder, so that the next process starts warm.

    Unless TORCHINDUCTOR_CACHE_DIR says where; torch's own place is the temporary folder.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home / "lungfast" / "compiled"))


def peak_memory_mb() -> int:
    """Of the process so far; Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6)


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """What a figure was measured on."""

    cpu: str
    cores: int
    memory_gib: float
    bf16: bool
    amx: bool
    """Whether it multiplies matrices in tiles, several times as fast."""
    device: str
    system: str

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def hardware(device: str = "cpu") -> Hardware:
    """This machine, with the GPU's name where ``device`` is one."""
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    match = re.search(r"^model name\s*:\s*(.*)$", text, re.MULTILINE)
    return Hardware(
        cpu=match.group(1).strip() if match else platform.processor() or platform.machine(),
        cores=cpu_count(),
        memory_gib=round(_machine_memory() / 2**30, 1),
        bf16=cpu_has_bf16(),
        amx=re.search(r"\bamx_bf16\b", text) is not None,
        device=device if device == "cpu" else f"{device} ({_gpu_name(device)})",
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )


def _gpu_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device)
