"""The nouns that cross rooms: frozen dataclasses over numpy, and Protocols. No torch in here.

THE DIMENSION KEY. An array's name ends in the letters of its axes, in order.

    K  decoders trained at once (the stack)         G  1 where all decoders share a batch, else K
    B  images of a batch                            I  prompts an image (1; 2 for one box per lung)
    T  tokens of the decoder (5 output + prompt)    P  prompt tokens
    N  image tokens, Eh*Ew                          Eh, Ew  embedding grid (64, 64 for SAM)
    C  channels (256)                               h, w  low-resolution sides (4*Eh, 4*Ew)
    F  fine channels of a token (dy, dx, channel)
    Q  thresholds                                   H, W  native size of an image
    M  masks an image (1 now)                       S  structures (left, right, ...)

Coordinates are (x, y), normalised: (0, 0) is the top-left corner and (1, 1) the bottom-right corner
of the *unpadded* image, so that pixel (row r, column c) has its centre at ((c+.5)/W, (r+.5)/H).
Sizes are (height, width). Angles do not occur. Distances are in millimetres where the spacing is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
Bool = npt.NDArray[np.bool_]
Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

Size = tuple[int, int]
ResizeRule = Literal["longest", "squash"]
LossName = Literal["dicefocal", "dicece"]
ScheduleName = Literal["onecycle", "constant"]
PromptKind = Literal["points", "box", "box-auto", "both", "both-auto"]
PrecisionName = Literal["fp32", "bf16", "fp16"]


# --- data ------------------------------------------------------------------------------------------

GENERATED, GENERATED_MARK = "generated ", "GENERATED.txt"
"""Begins the source of X-rays that were drawn and show nobody; and the file that says so beside them."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One decoded chest X-ray with its masks.

    ``image_HW`` is 8-bit grey, whatever the file held; ``masks`` maps a structure (``left``, ``right``,
    ``lungs``) to a boolean array of the image's size. ``spacing_mm`` is (vertical, horizontal).
    ``content_sha256`` is the hash of the decoded image pixels and their size.
    """

    id: str
    image_HW: UInt8
    masks: Mapping[str, Bool]
    source: str
    patient: str
    content_sha256: str
    label: str | None = None
    spacing_mm: tuple[float, float] | None = None

    @property
    def native_size(self) -> Size:
        return int(self.image_HW.shape[0]), int(self.image_HW.shape[1])


@dataclass(frozen=True, kw_only=True)
class View:
    """A sample as another film might show it, of its aspect; its masks are of one size, image's or larger."""

    image_HW: UInt8
    masks: Mapping[str, Bool]

    @property
    def size(self) -> Size:
        return int(self.image_HW.shape[0]), int(self.image_HW.shape[1])

    @property
    def mask_size(self) -> Size:
        height, width = next(iter(self.masks.values())).shape
        return int(height), int(width)


class SampleRef(Protocol):
    """A sample that was found but not yet read; ``load`` raises DataError naming the file."""

    @property
    def id(self) -> str: ...

    @property
    def facts(self) -> str:
        """Everything but the pixels that decides what ``load`` gives, as text."""
        ...

    def load(self) -> Sample: ...


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What a dataset folder holds: references in a stable order, and one-line notes for the user."""

    refs: tuple[SampleRef, ...]
    notes: tuple[str, ...] = ()
    drop_duplicates: bool = False
    """True where the same pixels are known to occur twice (the merged Kaggle copy)."""


# --- frozen ----------------------------------------------------------------------------------------


EMBEDDING, HIGH_RES = "image_embedding", "high_res_features"  # feature maps, by SAM 2's names


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """What an image encoder produces, and everything that decides its numbers.

    ``channels`` of a token: those of all ``feature_maps``, of a finer one cell by cell in the token.
    """

    name: str
    input_size: int
    grid: Size
    channels: int
    resize: ResizeRule
    weights_sha256: str
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    feature_maps: tuple[str, ...] = (EMBEDDING,)
    decoder_family: str = "sam"

    @property
    def has_high_res(self) -> bool:
        return HIGH_RES in self.feature_maps

    @property
    def n_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def low_size(self) -> Size:
        """(h, w) of the decoder's logits: four times the grid."""
        return 4 * self.grid[0], 4 * self.grid[1]


@dataclass(frozen=True, kw_only=True)
class ImageRecord:
    """What the cache knows of one image besides pixels; ``rows[v]`` is the row of view ``v``."""

    id: str
    native_size: Size
    structures: tuple[str, ...]
    patient: str
    source: str
    content_sha256: str
    label: str | None = None
    spacing_mm: tuple[float, float] | None = None
    rows: tuple[int, ...] = ()


# --- trained ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PromptTokens:
    """Encoded prompts of a batch for one decoder: ``mask_BIP`` is True where a token is real."""

    tokens_BIPC: Float32
    mask_BIP: Bool


class PromptSource(Protocol):
    """Prompts of one decoder. ``epoch`` is None for validation and test: then nothing is perturbed."""

    @property
    def n_instances(self) -> int: ...

    @property
    def n_tokens(self) -> int: ...

    def tokens(self, rows_B: Int64, *, epoch: int | None) -> PromptTokens: ...


@dataclass(frozen=True, kw_only=True)
class RowBatch:
    """Rows of the cache as the trainer takes them; a group G is shared by all decoders or one each.

    ``valid_GBhw`` is False on padding (it counts in no loss).
    """

    rows_GB: Int64
    features_GBNC: npt.NDArray[Any]
    targets_GBhw: Bool
    valid_GBhw: Bool


class RowSource(Protocol):
    """Where rows come from: resident, or streamed with prefetch; asked for in advance, given in order."""

    @property
    def n_rows(self) -> int: ...

    def stream(self, rows_GB: Iterable[Int64]) -> Iterator[RowBatch]: ...


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """One decoder to train; ``key`` is its identity in the run, wherever it sits in the stack."""

    key: str
    lr: float
    wd: float
    loss: LossName = "dicefocal"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """K decoders, each with its own rows and prompts. Decoders never communicate.

    ``train_rows_K`` holds a row per training image, (n,), or its views (n, V), the unaltered one first, of
    which every epoch draws one.
    """

    configs: tuple[DecoderConfig, ...]
    train_rows_K: tuple[Int64, ...]
    val_rows_K: tuple[Int64, ...]
    prompts_K: tuple[PromptSource, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.configs), len(self.train_rows_K), len(self.val_rows_K), len(self.prompts_K)}
        if len(lengths) != 1:
            raise ValueError(f"a Plan needs one entry per decoder in every field, got lengths {lengths}")
        if len({config.key for config in self.configs}) != len(self.configs):
            raise ValueError("decoder keys of a Plan must be unique")

    def __len__(self) -> int:
        return len(self.configs)

    def part(self, indices: Sequence[int]) -> Plan:
        """The sub-plan of some decoders; results are keyed by ``DecoderConfig.key``."""
        return Plan(
            configs=tuple(self.configs[k] for k in indices),
            train_rows_K=tuple(self.train_rows_K[k] for k in indices),
            val_rows_K=tuple(self.val_rows_K[k] for k in indices),
            prompts_K=tuple(self.prompts_K[k] for k in indices),
        )


@dataclass(frozen=True, kw_only=True)
class EpochEnd:
    """What the trainer says after an epoch. NaN validation loss: not validated in this epoch."""

    epoch: int
    epochs: int
    keys: tuple[str, ...]
    train_loss_K: Float64
    val_loss_K: Float64
    best_epoch_K: Int64
    status_K: tuple[str, ...]
    """``running``, ``stopped`` (early) or ``diverged``."""
    seconds: float
    images: int
    """(decoder, image) pairs trained in this epoch."""


# --- scored ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Pixels at native size, for one image at Q thresholds: integers, ratios come last."""

    true_positive_Q: Int64
    false_positive_Q: Int64
    false_negative_Q: Int64
    true_negative_Q: Int64

    def at(self, places: Sequence[int]) -> Counts:
        """The counts at some of the thresholds."""
        return Counts(**{name: value[list(places)] for name, value in vars(self).items()})


# --- splits ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Split:
    """Image indices of one split; parts are disjoint in patients."""

    train: Int64
    val: Int64
    test: Int64
    name: str = "split"
    meta: Mapping[str, Any] = field(default_factory=dict)
