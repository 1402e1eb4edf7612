"""Image encoders behind one registry: ``nano`` (embedded) and SAM's ``vit_b``, ``vit_l``, ``vit_h``.

Comes in: 8-bit grey images of any size. Goes out: float32 features (B, N, C), token-major, on the CPU, and
the head (prompt encoder and initial mask decoder) that belongs to them. Preprocessing is segment-anything's
to the bit: grey to three channels, Pillow's antialiased resize of the uint8 image, normalise, *then* pad
with zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from lungfast.errors import CacheError, CheckpointError, UsageError
from lungfast.frozen.checkpoints import (
    OFFICIAL,
    SAM_KINDS,
    WEIGHTS_VARIABLE,
    SamKind,
    find_checkpoint,
    head_bytes,
    image_encoder,
    read_checkpoint,
)
from lungfast.frozen.nano import NANO, NANO_SHA256, RANDOM_NANO_SHA256, nano_image_encoder, read_nano
from lungfast.geometry import Frame, resize_image
from lungfast.records import EMBEDDING, HIGH_RES, EncoderSpec, Float32, PrecisionName, ResizeRule, UInt8

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

ENCODER_NAMES = ("nano", *SAM_KINDS)
EMBEDDING_CHANNELS = 256
_ROOM = "image_encoder."


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoder:
    """A frozen image encoder on its device. ``head`` is safetensors (see ``checkpoints.read_head``)."""

    spec: EncoderSpec
    head: bytes
    module: nn.Module
    device: torch.device
    precision: PrecisionName = "fp32"

    @property
    def compute(self) -> dict[str, str]:
        """What besides the weights decides the numbers; part of a cache's fingerprint."""
        return {"dtype": self.precision, "device": self.device.type}

    def prepare(self, image_HW: UInt8) -> UInt8:
        """The resized, unpadded uint8 image: the part to run in threads. Preparing twice changes nothing."""
        frame = Frame.of((image_HW.shape[0], image_HW.shape[1]), self.spec.input_size, self.spec.resize)
        return (
            image_HW if image_HW.shape == frame.resized_size else resize_image(image_HW, frame.resized_size)
        )

    def encode(self, images: Sequence[UInt8], *, at_once: int = 1) -> Float32:
        """Images (H, W), prepared or not, sizes may differ -> features (B, N, C), rows of the grid first.

        A GPU computes for ``at_once`` images also where they are fewer: another number would compile anew.
        """
        import torch

        prepared = [self.prepare(image) for image in images]
        if self.device.type == "cuda":
            prepared += prepared[-1:] * (at_once - len(prepared))
        with torch.inference_mode():
            features_BCEhEw = self._run(self._padded_B3SS(prepared))[: len(images)]
            return self._to_host(features_BCEhEw.flatten(2).transpose(1, 2).to(torch.float32).contiguous())

    @property
    def usual_batch(self) -> int:
        """Images at once; on a CPU one a thread."""
        from lungfast.workers import Workers

        return 8 if self.device.type == "cuda" else Workers.of(self.device).n

    def _run(self, images_B3SS: Tensor) -> Tensor:
        """On a CPU a thread takes an image, and shares its operations with no other: 4 % less time."""
        import torch

        from lungfast.workers import Workers

        if self.device.type == "cuda" or len(images_B3SS) == 1:
            return torch.as_tensor(self.module(images_B3SS))

        @torch.inference_mode()
        def run(image_13SS: Tensor) -> Tensor:
            return torch.as_tensor(self.module(image_13SS))

        return torch.cat(Workers.of(self.device).map(run, images_B3SS[:, None].unbind()))

    def _padded_B3SS(self, prepared: Sequence[UInt8]) -> Tensor:
        import torch

        side, batch = self.spec.input_size, len(prepared)
        grey_BSS = torch.zeros(batch, side, side, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        is_image_BSS = torch.zeros_like(grey_BSS, dtype=torch.bool)
        for grey_SS, is_image_SS, image_HW in zip(grey_BSS, is_image_BSS, prepared, strict=True):
            part = tuple(slice(0, size) for size in image_HW.shape)
            grey_SS[part], is_image_SS[part] = torch.from_numpy(np.array(image_HW)), True
        device, spec = self.device, self.spec
        return normalised(
            grey_BSS.to(device, non_blocking=True), is_image_BSS.to(device), spec.pixel_mean, spec.pixel_std
        )

    def _to_host(self, features_BNC: Tensor) -> Float32:
        """On a GPU it waits for these features alone, not for what another thread has asked for since."""
        import torch

        if self.device.type != "cuda":
            return np.asarray(features_BNC.numpy())
        host_BNC = torch.empty(features_BNC.shape, pin_memory=True)
        host_BNC.copy_(features_BNC, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(self.device))
        arrived.synchronize()
        return np.asarray(host_BNC.numpy())


def normalised(
    grey_BSS: Tensor,
    is_image_BSS: Tensor,
    mean: tuple[float, float, float] = EncoderSpec.pixel_mean,
    std: tuple[float, float, float] = EncoderSpec.pixel_std,
) -> Tensor:
    """Grey levels -> SAM's input (B, 3, S, S): three channels, normalised, then zero on the padding."""
    import torch

    mean_311 = torch.tensor(mean, device=grey_BSS.device).view(3, 1, 1)
    std_311 = torch.tensor(std, device=grey_BSS.device).view(3, 1, 1)
    return torch.where(is_image_BSS[:, None], (grey_BSS[:, None] - mean_311) / std_311, 0.0)


def load_encoder(
    name: str | None = None,
    *,
    checkpoint: Path | None = None,
    resize: ResizeRule = "longest",
    device: torch.device,
    precision: PrecisionName = "fp32",
    high_res: bool = False,
) -> Encoder:
    """The encoder ``name``, or the one recognised from ``checkpoint``; ``nano`` where neither is given.

    ``high_res``: its high-resolution features too, which nano alone has. A ``vit_*`` without a checkpoint is
    looked for in $LUNGFAST_WEIGHTS. Raises UsageError for an unknown name or one that contradicts the file,
    CheckpointError for a file that is absent or not SAM.
    """
    if name is not None and name not in ENCODER_NAMES:
        raise UsageError("--encoder is unknown", found=name, expected=", ".join(ENCODER_NAMES))
    channels, feature_maps = EMBEDDING_CHANNELS, [EMBEDDING]
    if is_nano(name, checkpoint):
        state: Mapping[str, Tensor] = read_nano()
        kind, sha256, module = "nano", NANO_SHA256, nano_image_encoder(high_res=high_res)
        input_size, grid = NANO.input_size, NANO.grid
        if high_res:
            channels, feature_maps = channels + NANO.fine_channels, [EMBEDDING, HIGH_RES]
    elif high_res:
        raise UsageError(
            "--high-res needs an encoder that has finer maps than its embedding",
            found=name or str(checkpoint),
            expected="nano",
        )
    else:
        loaded = read_checkpoint(checkpoint or _official_file(name))
        if name not in {None, loaded.kind}:
            raise UsageError(
                f"--encoder {name} contradicts --checkpoint {loaded.path.name}",
                found=loaded.kind,
                fix=f"leave --encoder out, or say --encoder {loaded.kind}",
            )
        state, kind, sha256, module = loaded.state, loaded.kind, loaded.sha256, image_encoder(loaded.kind)
        input_size, grid = 1024, (64, 64)
    spec = EncoderSpec(
        name=kind,
        input_size=input_size,
        grid=grid,
        channels=channels,
        resize=resize,
        weights_sha256=sha256,
        feature_maps=tuple(feature_maps),
    )
    _fill(module, state, device)
    module = fast(module, precision, device)
    return Encoder(spec=spec, head=head_bytes(state), module=module, device=device, precision=precision)


def is_nano(name: str | None, checkpoint: Path | None) -> bool:
    """Whether :func:`load_encoder` gives the embedded encoder."""
    return checkpoint is None and name in {None, "nano"}


def fast(module: nn.Module, precision: PrecisionName, device: torch.device) -> nn.Module:
    """The quickest form of an image encoder on its device; takes its weights over."""
    import torch
    from segment_anything.modeling import ImageEncoderViT

    from lungfast.frozen.hybrid import ReducedHybrid
    from lungfast.frozen.mixed import MixedEncoder

    if precision == "fp32" and device.type != "cpu":
        return module
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    with torch.inference_mode():
        if isinstance(module, ImageEncoderViT):
            return MixedEncoder(module, dtypes[precision])
        return module if precision == "fp32" else ReducedHybrid(module, dtypes[precision])


DecoderOrigin = Literal["generated", "sam", "custom"]


def decoder_origin(spec: EncoderSpec) -> DecoderOrigin:
    """What the initial decoder was trained on: nano's on generated X-rays; Meta's is SAM's."""
    if spec.name == "nano":
        return "generated"
    return "sam" if spec.weights_sha256 in {file.sha256 for file in OFFICIAL.values()} else "custom"


def refuse_random_nano(spec: EncoderSpec, url: str) -> None:
    """CacheError for a cache of an earlier version, whose nano was random: its head knows nothing."""
    if spec.weights_sha256 == RANDOM_NANO_SHA256:
        raise CacheError(
            f"{url} was embedded with the random nano of an earlier version",
            found=f"weights {RANDOM_NANO_SHA256[:12]}…",
            expected=f"nano's trained weights {NANO_SHA256[:12]}…",
            fix="embed the X-rays again, with --overwrite",
        )


def nano_notice() -> str:
    """One line for a user who embeds without SAM: what this is, and where SAM is."""
    return (
        "nano is a small model trained on generated X-rays, not SAM: its numbers are not SAM's; "
        f"for SAM give --checkpoint {OFFICIAL['vit_h'].describe()}"
    )


def _official_file(name: str | None) -> Path:
    kind: SamKind = next(k for k in SAM_KINDS if k == name)
    found = find_checkpoint(kind)
    if found is None:
        raise CheckpointError(
            f"--encoder {kind} needs SAM's weights",
            found=f"neither --checkpoint nor ${WEIGHTS_VARIABLE}/{OFFICIAL[kind].file}",
            fix=f"download {OFFICIAL[kind].describe()}",
        )
    return found


def _fill(module: nn.Module, state: Mapping[str, Tensor], device: torch.device) -> None:
    """Put the tensors in place of the module's own (no second copy of 2.6 GB), frozen and in eval mode."""
    weights = {k.removeprefix(_ROOM): v.float() for k, v in state.items() if k.startswith(_ROOM)}
    module.load_state_dict(weights, strict=True, assign=True)
    module.requires_grad_(False).eval().to(device)
