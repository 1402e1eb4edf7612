"""SAM's weights files: read safely and strictly, recognise, take the head out, write back.

Comes in: a ``.pth`` file that is not trusted (it may be another model, truncated, or a pickle with code in
it). Goes out: a :class:`Checkpoint` whose tensors have exactly segment-anything's names and shapes, the
bytes of its head (prompt encoder and mask decoder), or a new full checkpoint with another mask decoder.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from lungfast.errors import CheckpointError
from lungfast.files import disk_error, file_sha256

if TYPE_CHECKING:
    from torch import Tensor, nn

SamKind = Literal["vit_h", "vit_l", "vit_b"]
SAM_KINDS: tuple[SamKind, ...] = get_args(SamKind)
WEIGHTS_VARIABLE = "LUNGFAST_WEIGHTS"
_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
_HEAD_ROOMS = ("prompt_encoder.", "mask_decoder.")
_WRAPPERS = ("model", "state_dict", "model_state_dict")


@dataclass(frozen=True, kw_only=True)
class OfficialFile:
    """One of Meta's published files."""

    file: str
    size: int
    sha256: str

    @property
    def url(self) -> str:
        return _URL + self.file

    def describe(self) -> str:
        return f"{self.file} from {self.url} ({self.size / 1e9:.2f} GB, sha256 {self.sha256})"


OFFICIAL: Mapping[SamKind, OfficialFile] = {
    "vit_h": OfficialFile(
        file="sam_vit_h_4b8939.pth",
        size=2_564_550_879,
        sha256="a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    "vit_l": OfficialFile(
        file="sam_vit_l_0b3195.pth",
        size=1_249_524_607,
        sha256="3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "vit_b": OfficialFile(
        file="sam_vit_b_01ec64.pth",
        size=375_042_383,
        sha256="ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A SAM state dict, mapped from its file (nothing is copied until a tensor is used)."""

    kind: SamKind
    sha256: str
    state: Mapping[str, Tensor]
    path: Path


@dataclass(frozen=True, kw_only=True)
class Head:
    """What is not the image encoder, as float32, with the names inside segment-anything's modules."""

    prompt_encoder: Mapping[str, Tensor]
    mask_decoder: Mapping[str, Tensor]

    @property
    def is_untrained(self) -> bool:
        """Every layer norm is as it was made: no step has ever moved this decoder."""
        norms = {name: value for name, value in self.mask_decoder.items() if "norm" in name}
        return all(bool((norm == float(name.endswith("weight"))).all()) for name, norm in norms.items())


def find_checkpoint(kind: SamKind) -> Path | None:
    """The official file of ``kind`` in the folder $LUNGFAST_WEIGHTS, if it is there."""
    folder = os.environ.get(WEIGHTS_VARIABLE)
    path = Path(folder) / OFFICIAL[kind].file if folder else None
    return path if path is not None and path.is_file() else None


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a SAM ``.pth``, or one that wraps it as ``{"model": …}``.

    Only tensors are unpickled (``weights_only``), so code in the file never runs.
    Raises CheckpointError, one line, for anything that is not exactly vit_h, vit_l or vit_b.
    """
    state = _load_tensors(path)
    kind = _recognise(state, path)
    _check_shapes(state, _sam_shapes(kind), f"{path} looks like SAM {kind} but its tensors do not fit")
    return Checkpoint(kind=kind, sha256=file_sha256(path), state=state, path=path)


def head_bytes(state: Mapping[str, Tensor]) -> bytes:
    """safetensors bytes of the float32 ``prompt_encoder.*`` and ``mask_decoder.*`` tensors of ``state``.

    CheckpointError where they are not segment-anything's by name and shape.
    """
    from safetensors.torch import save

    head = {k: v.detach().cpu().float().clone() for k, v in state.items() if k.startswith(_HEAD_ROOMS)}
    shapes = {k: v for k, v in _sam_shapes("vit_b").items() if k.startswith(_HEAD_ROOMS)}
    _check_shapes(head, shapes, "the head is not that of SAM")
    return save(head)


def read_head(content: bytes) -> Head:
    """The inverse of :func:`head_bytes`, which has checked it: segment-anything takes 3 s to import."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(content)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError("the stored SAM head is not safetensors", found=str(error)) from None
    prompts, decoder = (
        {k.removeprefix(room): v.to(torch.float32) for k, v in state.items() if k.startswith(room)}
        for room in _HEAD_ROOMS
    )
    return Head(prompt_encoder=prompts, mask_decoder=decoder)


def export_checkpoint(base: Path, decoder_state: Mapping[str, Tensor], out: Path) -> None:
    """Write ``base`` with another mask decoder as a ``.pth`` that ``sam_model_registry`` loads strictly.

    ``decoder_state`` has the names of segment-anything's MaskDecoder (a ``mask_decoder.`` prefix is fine).
    All other tensors are those of ``base``, bit for bit; ``out`` appears whole or not at all.
    """
    checkpoint = read_checkpoint(base)
    room = _HEAD_ROOMS[1]
    new = {room + k.removeprefix(room): v.detach().cpu().contiguous() for k, v in decoder_state.items()}
    shapes = {k: v for k, v in _sam_shapes(checkpoint.kind).items() if k.startswith(room)}
    _check_shapes(new, shapes, "the decoder to export is not SAM's mask decoder")
    state = {k: new[k].to(v.dtype) if k in new else v for k, v in checkpoint.state.items()}
    _save_atomic(state, out)


def image_encoder(kind: SamKind) -> nn.Module:
    """segment-anything's image encoder on ``meta`` (no memory, no init): load with assign=True."""
    module: nn.Module = _meta_sam(kind).get_submodule("image_encoder")
    return module


def _meta_sam(kind: SamKind) -> nn.Module:
    import torch
    from segment_anything import sam_model_registry

    with torch.device("meta"):  # random initialisation of vit_h would take 12 s and 2.6 GB
        module: nn.Module = sam_model_registry[kind]()
    return module


@cache
def _sam_shapes(kind: SamKind) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in _meta_sam(kind).state_dict().items()}


def _load_tensors(path: Path) -> dict[str, Tensor]:
    import torch

    fix = "download the file again, or give a SAM .pth"
    if not path.is_file():
        raise CheckpointError(f"no checkpoint {path}", found="a folder" if path.is_dir() else "no such file")
    try:
        content = _load_any(path)
    except Exception as error:  # a damaged file can raise anything inside torch's reader
        what, found = _explain(error, path)
        raise CheckpointError(what, found=found, fix=fix) from None
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise CheckpointError(f"{path} is not a state dict", found=type(content).__name__, fix=fix)
    strangers = [str(k) for k, v in content.items() if not (isinstance(k, str) and torch.is_tensor(v))]
    if strangers:
        raise CheckpointError(f"{path} is not a state dict of SAM", found=_few(strangers), fix=fix)
    return dict(content)


def _load_any(path: Path) -> Any:
    """Mapped where the file allows it: torch's older, non-zip format has to be read as a whole."""
    import torch

    mapped = zipfile.is_zipfile(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickle protocols: the error that follows says enough
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _explain(error: Exception, path: Path) -> tuple[str, str]:
    """(what, found): objects that torch refused to build, or plain damage."""
    if isinstance(error, pickle.UnpicklingError):
        blocked = re.search(r"GLOBAL ([\w.]+)", str(error))
        with path.open("rb") as file:
            is_pickle = file.read(1) == b"\x80"
        if blocked or is_pickle:
            name = blocked.group(1) if blocked else "a bare pickle"
            return f"{path} holds code or objects besides tensors", f"{name}, which was not executed"
        return f"{path} is damaged or is not a PyTorch file", "neither an archive nor a pickle"
    first = str(error).strip().splitlines()[:1] or [type(error).__name__]
    if isinstance(error, LookupError):  # bytes of another kind of file, read as a pickle's
        first = ["neither an archive nor a pickle"]
    return f"{path} is damaged or is not a PyTorch file", first[0][:120]


def _recognise(state: Mapping[str, Tensor], path: Path) -> SamKind:
    """The kind whose width and depth the tensors have."""
    patch = state.get("image_encoder.patch_embed.proj.weight")
    blocks = {k.split(".")[2] for k in state if k.startswith("image_encoder.blocks.")}
    found = f"{len(state)} tensors such as {_few(list(state))}"
    if patch is not None and patch.ndim == 4:
        by_size = {(1280, 32): "vit_h", (1024, 24): "vit_l", (768, 12): "vit_b"}
        kind = by_size.get((int(patch.shape[0]), len(blocks)))
        if kind is not None:
            return kind  # type: ignore[return-value]
        found = f"an image encoder of width {patch.shape[0]} and depth {len(blocks)}"
    raise CheckpointError(
        f"{path} is a checkpoint of another model",
        found=found,
        expected="segment-anything's vit_h, vit_l or vit_b",
    )


def _check_shapes(state: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Strict: the same names and the same shapes, or CheckpointError naming the first few."""
    missing = [k for k in shapes if k not in state]
    unexpected = [k for k in state if k not in shapes]
    misfits = [k for k, shape in shapes.items() if k in state and tuple(state[k].shape) != shape]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": misfits}
    found = ", ".join(f"{len(keys)} {word} ({_few(keys)})" for word, keys in problems.items() if keys)
    if found:
        raise CheckpointError(what, found=found, expected=f"{len(shapes)} tensors of segment-anything")


def _few(names: list[str], n: int = 3) -> str:
    return ", ".join(names[:n]) + (" …" if len(names) > n else "")


def _save_atomic(state: Mapping[str, Tensor], out: Path) -> None:
    """torch.save streams to a temporary sibling (2.6 GB need not be held as bytes), then ``os.replace``."""
    import torch

    with _replacing(out) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # torch reports a full disk as a RuntimeError
            raise OSError(str(error).splitlines()[0]) from error


@contextlib.contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(out)
    except OSError as error:
        raise disk_error(out, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
