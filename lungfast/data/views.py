"""Altered views of an X-ray, as another film of another day might show the same patient; and the way back.

Comes in: a sample, how many views, the size in which the encoder will see them. Goes out: a :class:`View`
each, image and masks moved alike; and what a decoder said of a view, on the film again. A view depends on
(image id, number of the view) alone, never on the order or the thread; view 0 is the sample itself and is not
made here.

What moves: the patient leans (rotation), stands nearer (scale), off the middle (shift), is broader or taller
(stretch). What changes: exposure (gamma), contrast and brightness, noise, sharpness. Never mirrored: the
heart would lie on the right. Where the film ends a view is black (of a negative white), and no lung is there.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
from PIL import Image, ImageFilter
from scipy.ndimage import affine_transform

from lungfast.errors import UsageError
from lungfast.geometry import Frame, resize_image
from lungfast.records import Bool, Float32, Float64, Sample, Size, UInt8, View

MOST_VIEWS = 64
OVERSAMPLED = 2
"""The film is first brought to this many times a view's size. Bilinear steps from there alias a little: edges
of a view have 1.4 to 1.8 times the energy of those of view 0, as if sharpened. Drawn twice as large and then
made smaller, like any film, they have not, and F1 was 0.0005 lower (Montgomery's fold 0: validation .9739 for
.9744, away .9495 for .9501): it stays as it is."""
SEAM = 2.0
"""Pixels of the encoder's input along a view's rim that are not believed when it is mapped back."""
_MASK_LEVEL = 127


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How far views may differ from the film; each is drawn evenly from minus to plus.

    ``scale``, ``stretch`` and ``gamma`` are factors: 1.15 draws between 1/1.15 and 1.15 in the logarithm.
    ``shift`` is a share of each side. ``contrast`` is a factor about the mean, ``brightness`` a share of
    full scale. ``noise`` (grey levels) and ``blur`` (pixels of 512) are upper bounds of what ``share_rough``
    of the views get. ``share_inverted`` of the views are negatives.
    """

    rotation_deg: float = 10.0
    scale: float = 1.15
    stretch: float = 1.05
    shift: float = 0.1
    gamma: float = 1.5
    contrast: float = 1.25
    brightness: float = 0.08
    noise: float = 8.0
    blur: float = 1.2
    share_rough: float = 0.3
    share_inverted: float = 0.0

    def __post_init__(self) -> None:
        for name in ("scale", "stretch", "gamma", "contrast"):
            if (found := getattr(self, name)) < 1:
                raise UsageError(f"{name} of a view is a factor", found=str(found), expected="at least 1")

    def __str__(self) -> str:
        return ", ".join(f"{name} {_shortest(value)}" for name, value in asdict(self).items())

    @classmethod
    def from_text(cls, text: str) -> ViewConfig:
        """The inverse of ``str``; what else stands there is passed over. ValueError where something lacks."""
        words = dict(part.strip().rpartition(" ")[::2] for part in text.split(","))
        missing = [field.name for field in fields(cls) if field.name not in words]
        if missing:
            raise ValueError(f"no {', '.join(missing)} in {text!r}")
        return cls(**{field.name: float(words[field.name]) for field in fields(cls)})


def make_views(
    sample: Sample, n_views: int, size: Size, config: ViewConfig, *, mask_scale: int = 1
) -> list[View]:
    """Views 1 to ``n_views - 1`` of a sample, (height, width) ``size``; masks ``mask_scale`` times that."""
    if n_views == 1:
        return []
    large, mask_size = ((scale * size[0], scale * size[1]) for scale in (OVERSAMPLED, mask_scale))
    film = Image.fromarray(resize_image(sample.image_HW, large))
    films = {
        name: Image.fromarray(resize_image(np.asarray(mask_HW, np.uint8) * np.uint8(255), large))
        for name, mask_HW in sample.masks.items()
    }
    views = []
    for number in range(1, n_views):
        rng = _generator(sample.id, number)
        placement_23 = random_placement(config, rng)
        places = film_places(placement_23, sample.native_size, size, large)
        of_masks = film_places(placement_23, sample.native_size, mask_size, large)
        masks = {name: _moved(mask, of_masks, mask_size) > _MASK_LEVEL for name, mask in films.items()}
        views.append(View(image_HW=_exposed(_moved(film, places, size), config, rng), masks=masks))
    return views


def mean_on_film(logits_Vhw: Float32, image_id: str, frame: Frame, config: ViewConfig) -> Float32:
    """(h, w): the mean of what was said of each view of an image, the unaltered one first, on its film.

    Every pixel is averaged over the views that show it. Bilinear; ``frame`` is that of the image, and of its
    views too.
    """
    height, width = logits_Vhw[0].shape
    total_hw, n_hw = logits_Vhw[0].astype(np.float32), np.ones((height, width), np.float32)
    for number in range(1, len(logits_Vhw)):
        placement_23 = random_placement(config, _generator(image_id, number))
        matrix_22, offset_2 = _film_to_view(placement_23, frame, (height, width))
        moved_hw = affine_transform(logits_Vhw[number], matrix_22, offset_2, order=1, mode="nearest")
        shown_hw = _shown(matrix_22, offset_2, frame, (height, width))
        total_hw += np.where(shown_hw, moved_hw, np.float32(0))
        n_hw += shown_hw
    return np.asarray(total_hw / n_hw, np.float32)


def _film_to_view(placement_23: Float64, frame: Frame, low_size: Size) -> tuple[Float64, Float64]:
    """(2, 2) and (2,): from a low-resolution pixel of the film, (row, column), to its place in a view."""
    size = frame.resized_size
    a, b, c, d, e, f = film_places(placement_23, frame.native_size, size, size)
    cells_2 = frame.input_size / np.array(low_size)
    inverse_22 = np.linalg.inv([[e, d], [b, a]])  # rows before columns
    matrix_22 = inverse_22 * cells_2 / cells_2[:, None]
    offset_2 = inverse_22 @ (cells_2 / 2 - np.array([f, c])) / cells_2 - 0.5
    return matrix_22, offset_2


def _shown(matrix_22: Float64, offset_2: Float64, frame: Frame, low_size: Size) -> Bool:
    """Which pixels of the film a view shows, its rim and what is mixed with padding left out."""
    shown_hw = np.ones(low_size, np.bool_)
    rows, columns = (np.arange(n) for n in low_size)
    extents = zip(frame.resized_size, frame.valid_extent(low_size), low_size, strict=True)
    for axis, (resized, valid, n) in enumerate(extents):
        cell = frame.input_size / n
        place_hw = (matrix_22[axis, 0] * rows + offset_2[axis])[:, None] + matrix_22[axis, 1] * columns
        shown_hw &= place_hw >= SEAM / cell - 0.5
        shown_hw &= place_hw <= min((resized - SEAM) / cell - 0.5, valid - 1)
    return shown_hw


def _generator(image_id: str, number: int) -> np.random.Generator:
    """The random numbers of one view: first its place, then its exposure."""
    return np.random.default_rng([zlib.crc32(image_id.encode(errors="surrogateescape")), number])


def _shortest(value: float) -> str:
    text = f"{value:g}"
    return text if float(text) == value else repr(float(value))


def random_placement(config: ViewConfig, rng: np.random.Generator) -> Float64:
    """(2, 3): from the view to the film, in pixels about its middle; the shift in shares of the sides."""
    angle = np.deg2rad(config.rotation_deg) * rng.uniform(-1, 1)
    scale, stretch = config.scale ** rng.uniform(-1, 1), config.stretch ** rng.uniform(-1, 1)
    turn_22 = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    linear_22 = turn_22 / (scale * np.array([stretch, 1 / stretch]))
    return np.column_stack([linear_22, config.shift * rng.uniform(-1, 1, 2)])


def film_places(placement_23: Float64, native_size: Size, size: Size, film_size: Size) -> Sequence[float]:
    """The six numbers of Pillow's affine transform: a view's pixel -> where the film shows it.

    Turned in native pixels, so that a film squashed into a square turns as the film does.
    """
    native_2, view_2, film_2 = (np.array(one[::-1], np.float64) for one in (native_size, size, film_size))
    linear_22, shift_2 = placement_23[:, :2], placement_23[:, 2] * native_2
    # film = to_film(linear (native(view) - middle - shift) + middle)
    matrix_22 = (film_2 / native_2)[:, None] * linear_22 * (native_2 / view_2)[None]
    offset_2 = (film_2 / native_2) * (native_2 / 2 - linear_22 @ (native_2 / 2 + shift_2))
    (a, b), (d, e) = matrix_22.tolist()
    c, f = offset_2.tolist()
    return a, b, c, d, e, f


def _moved(film: Image.Image, places: Sequence[float], size: Size) -> UInt8:
    moved = film.transform((size[1], size[0]), Image.Transform.AFFINE, places, Image.Resampling.BILINEAR)
    return np.asarray(moved)


def _exposed(image_HW: UInt8, config: ViewConfig, rng: np.random.Generator) -> UInt8:
    """One table for exposure, contrast, brightness and negative; then some are blurred, some noisy."""
    gamma, contrast = config.gamma ** rng.uniform(-1, 1), config.contrast ** rng.uniform(-1, 1)
    brightness = 255 * config.brightness * rng.uniform(-1, 1)
    levels = 255 * (np.arange(256) / 255) ** gamma
    levels = (levels - levels[image_HW].mean()) * contrast + levels[image_HW].mean() + brightness
    levels[0] = 0  # beyond the film and behind collimators nothing is exposed
    if rng.random() < config.share_inverted:
        levels = 255 - levels
    exposed_HW = np.clip(np.rint(levels), 0, 255).astype(np.uint8)[image_HW]
    if rng.random() < config.share_rough:
        radius = config.blur * rng.random() * max(image_HW.shape) / 512
        exposed_HW = np.asarray(Image.fromarray(exposed_HW).filter(ImageFilter.GaussianBlur(radius)))
    if rng.random() < config.share_rough:
        noise_HW = rng.standard_normal(image_HW.shape, np.float32) * np.float32(config.noise * rng.random())
        exposed_HW = np.clip(np.rint(exposed_HW + noise_HW), 0, 255).astype(np.uint8)
    return np.asarray(exposed_HW, np.uint8)
