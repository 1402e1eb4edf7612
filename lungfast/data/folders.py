"""From folders to references: which image files are there, which mask belongs to which, and what is left out.

In: folders. Out: :class:`FileRef` objects that read their files only when ``load`` is called, so that listing
700 images costs milliseconds and one damaged file spoils nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lungfast.data.images import content_sha256, read_image, read_mask
from lungfast.errors import DataError
from lungfast.records import Bool, Sample, Size

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
MASK_SUFFIX = "_mask"


@dataclass(frozen=True, kw_only=True)
class FileRef:
    """A sample on disk: one image file and one mask file per structure (a SampleRef).

    ``spacing_mm`` (vertical, horizontal) is given to the sample only where its native size is in
    ``spacing_sizes``; an empty tuple means at any size.
    """

    id: str
    image: Path
    masks: Mapping[str, Path]
    source: str
    patient: str
    label: str | None = None
    spacing_mm: tuple[float, float] | None = None
    spacing_sizes: tuple[Size, ...] = ()

    @property
    def facts(self) -> str:
        """Names and sizes of the files, and what is known of the image; 0 bytes for a file that is gone."""
        files = {"image": self.image, **self.masks}
        sizes = {
            name: (path.name, path.stat().st_size if path.exists() else 0) for name, path in files.items()
        }
        return repr((self.id, sorted(sizes.items()), self.source, self.patient, self.label, self.spacing_mm))

    def load(self) -> Sample:
        """Read image and masks; raises DataError naming the file, or both files where their sizes differ."""
        image_HW = read_image(self.image)
        masks: dict[str, Bool] = {}
        for structure, path in self.masks.items():
            masks[structure] = read_mask(path)
            self._check_size(path, masks[structure].shape, image_HW.shape)
        is_known_size = not self.spacing_sizes or image_HW.shape in self.spacing_sizes
        return Sample(
            id=self.id,
            image_HW=image_HW,
            masks=masks,
            source=self.source,
            patient=self.patient,
            content_sha256=content_sha256(image_HW),
            label=self.label,
            spacing_mm=self.spacing_mm if is_known_size else None,
        )

    def _check_size(self, mask: Path, mask_size: tuple[int, ...], image_size: tuple[int, ...]) -> None:
        if mask_size != image_size:
            raise DataError(
                f"mask and image differ in size (height x width): {mask} is {_by(mask_size)}, "
                f"{self.image} is {_by(image_size)}",
                fix="save the mask at the image's size",
            )


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in size)


def require_folder(folder: Path, what: str) -> None:
    """Raises DataError unless ``folder`` is a folder; ``what`` says what it should hold."""
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing there"
        raise DataError(
            f"cannot read {folder}", found=found, expected=f"a folder with {what}", fix="check the path"
        )


def image_files(folder: Path) -> dict[str, Path]:
    """Stem -> image file, sorted by stem; hidden files and other types are ignored, sub-folders not entered.

    Raises DataError where two files share a stem (``a.png`` and ``a.jpg``): an id must name one file.
    """
    files: dict[str, Path] = {}
    for path in _entries(folder):
        if path.name.startswith(".") or path.suffix.lower() not in EXTENSIONS or not path.is_file():
            continue
        if path.stem in files:
            raise DataError(
                f"two files in {folder} have the same stem",
                found=f"{files[path.stem].name} and {path.name}",
                fix="rename or remove one of them",
            )
        files[path.stem] = path
    return dict(sorted(files.items()))


def _entries(folder: Path) -> list[Path]:
    """What a folder holds, sorted; DataError where it may not be read or a name is no valid text."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot read {folder}", found=error.strerror or str(error)) from error
    for path in entries:
        try:
            path.name.encode()
        except UnicodeEncodeError:
            raise DataError(
                f"a file name in {folder} is not valid UTF-8", found=ascii(path.name), fix="rename the file"
            ) from None
    return entries


def _by_image_stem(files: Mapping[str, Path], images: Mapping[str, Path]) -> dict[str, Path]:
    """Image stem -> mask file: the mask's own stem where an image has it, else without ``_mask``.

    Raises DataError where two masks belong to one image (``a.png`` and ``a_mask.png``).
    """
    masks: dict[str, Path] = {}
    for stem, path in files.items():
        image_stem = stem if stem in images else stem.removesuffix(MASK_SUFFIX)
        if image_stem in masks:
            raise DataError(
                f"two masks in {path.parent} belong to {image_stem}",
                found=f"{masks[image_stem].name} and {path.name}",
                fix="remove one of them",
            )
        masks[image_stem] = path
    return masks


@dataclass(frozen=True, kw_only=True)
class Pairing:
    """Images with all their masks, by stem, and the stems that are left out."""

    pairs: Mapping[str, tuple[Path, Mapping[str, Path]]]
    without_mask: tuple[str, ...]
    without_image: tuple[str, ...]

    def refs(self, make: Callable[[str, Path, Mapping[str, Path]], FileRef]) -> tuple[FileRef, ...]:
        """One reference per pair, sorted by id."""
        made = (make(stem, image, masks) for stem, (image, masks) in self.pairs.items())
        return tuple(sorted(made, key=lambda ref: ref.id))


def pair_up(images: Mapping[str, Path], masks: Mapping[str, Mapping[str, Path]]) -> Pairing:
    """Match stems (a mask's may end in ``_mask``); paired only if every structure has the image's mask."""
    masks = {structure: _by_image_stem(files, images) for structure, files in masks.items()}
    pairs, without_mask = {}, []
    for stem, image in images.items():
        if all(stem in files for files in masks.values()):
            pairs[stem] = (image, {structure: files[stem] for structure, files in masks.items()})
        else:
            without_mask.append(stem)
    masked = {stem for files in masks.values() for stem in files}
    return Pairing(
        pairs=pairs, without_mask=tuple(without_mask), without_image=tuple(sorted(masked - images.keys()))
    )


def left_out_notes(
    without_mask: Iterable[str], without_image: Iterable[str], *, with_names: bool = True
) -> tuple[str, ...]:
    """At most one line each for the images without mask and the masks without image."""
    kinds = ((without_mask, "image", "mask"), (without_image, "mask", "image"))
    notes = (
        _left_out_note(list(stems), thing, missing, with_names=with_names) for stems, thing, missing in kinds
    )
    return tuple(note for note in notes if note)


def _left_out_note(stems: list[str], thing: str, missing: str, *, with_names: bool) -> str:
    """``"4 images have no mask and are left out: a, b, c, ..."``; empty where nothing is left out."""
    if not stems:
        return ""
    if len(stems) == 1:
        count = f"1 {thing} has no {missing} and is left out"
    else:
        count = f"{len(stems)} {thing}s have no {missing} and are left out"
    named = ": " + ", ".join(stems[:3]) + (", ..." if len(stems) > 3 else "")
    return count + (named if with_names else "")
