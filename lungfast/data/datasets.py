"""The layouts people really have on disk: Montgomery, Shenzhen, the merged Kaggle copy, any folder of pairs.

In: folders. Out: a :class:`Listing` of references sorted by id, with one-line notes about what is left out.
One policy for all: an image without a mask and a mask without an image are counted in a note and left out;
it is an error (DataError naming what was looked for) only if no pair remains or a folder is missing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from lungfast.data.folders import (
    MASK_SUFFIX,
    FileRef,
    Pairing,
    image_files,
    left_out_notes,
    pair_up,
    require_folder,
)
from lungfast.data.metadata import MetaRow, read_meta
from lungfast.errors import DataError, UsageError
from lungfast.records import GENERATED, GENERATED_MARK, Listing

MONTGOMERY_SPACING_MM = 0.0875
MONTGOMERY_SIZES = ((4020, 4892), (4892, 4020))
LABELS = {"0": "normal", "1": "tuberculosis"}

_SOURCES = {"MCUCXR": "montgomery", "CHNCXR": "shenzhen"}


def list_montgomery(folder: Path) -> Listing:
    """``MontgomerySet`` or the folder that holds it; structures ``left`` and ``right`` as its folders say.

    Spacing is 0.0875 mm where the native size is the official 4020 x 4892 or 4892 x 4020, else None.
    """
    root = _child_or_self(folder, "MontgomerySet", "CXR_png")
    masks = root / "ManualMask"
    for needed in (root / "CXR_png", masks / "leftMask", masks / "rightMask"):
        require_folder(needed, "the Montgomery set's PNG files")
    sides = {"left": image_files(masks / "leftMask"), "right": image_files(masks / "rightMask")}
    pairing = pair_up(image_files(root / "CXR_png"), sides)
    _require_pairs(pairing, root / "CXR_png", masks, "leftMask/NAME.png and rightMask/NAME.png")

    source = _source(root, "montgomery")

    def make(stem: str, image: Path, files: Mapping[str, Path]) -> FileRef:
        spacing = (MONTGOMERY_SPACING_MM, MONTGOMERY_SPACING_MM)
        ref = _tb_ref(stem, image, files, source)
        return replace(ref, spacing_mm=spacing, spacing_sizes=MONTGOMERY_SIZES)

    return Listing(refs=pairing.refs(make), notes=_notes(pairing))


def list_shenzhen(folder: Path, masks: Path | None) -> Listing:
    """``ChinaSet_AllFiles`` or its parent, and the folder of masks, its parent or ``mask/mask``.

    Without ``masks``, a folder ``shcxr-lung-mask``, ``mask`` or ``masks`` in or beside ``ChinaSet_AllFiles``
    is used. 96 of the official 662 images have no mask. Structure ``lungs``.
    """
    root = _child_or_self(folder, "ChinaSet_AllFiles", "CXR_png")
    require_folder(root / "CXR_png", "the Shenzhen set's PNG files")
    mask_folder = _mask_folder(root, masks)
    pairing = pair_up(image_files(root / "CXR_png"), {"lungs": image_files(mask_folder)})
    _require_pairs(pairing, root / "CXR_png", mask_folder, "NAME_mask.png")
    source = _source(root, "shenzhen")
    refs = pairing.refs(lambda stem, image, files: _tb_ref(stem, image, files, source))
    return Listing(refs=refs, notes=_notes(pairing, with_names=False))


def list_kaggle(folder: Path) -> Listing:
    """The Kaggle copy of both sets (``Lung Segmentation/{CXR_png,masks}``), which holds every pair twice.

    Every such folder at or up to three levels below ``folder`` is read. The second copy's ids end in
    ``@2``; its pixels are dropped by content hash later. Masks are called ``NAME.png`` or ``NAME_mask.png``.
    """
    require_folder(folder, "Lung Segmentation/CXR_png and Lung Segmentation/masks")
    roots = _kaggle_roots(folder)
    if not roots:
        raise DataError(
            f"no Lung Segmentation in {folder}",
            expected="a folder with CXR_png and masks at most three levels down",
            fix="give the folder the archive was unpacked into",
        )
    refs: list[FileRef] = []
    without_mask, without_image, n_copies = set[str](), set[str](), Counter[str]()
    for root in roots:
        pairing = pair_up(image_files(root / "CXR_png"), {"lungs": image_files(root / "masks")})
        _require_pairs(pairing, root / "CXR_png", root / "masks", "NAME.png or NAME_mask.png")
        without_mask.update(pairing.without_mask)
        without_image.update(pairing.without_image)
        for ref in pairing.refs(_kaggle_ref):
            n_copies[ref.id] += 1
            refs.append(ref if n_copies[ref.id] == 1 else replace(ref, id=f"{ref.id}@{n_copies[ref.id]}"))
    return Listing(
        refs=tuple(sorted(refs, key=lambda ref: ref.id)),
        notes=left_out_notes(sorted(without_mask), sorted(without_image), with_names=False),
        drop_duplicates=True,
    )


def list_pairs(images: Path, masks: Path, meta: Path | None = None) -> Listing:
    """Any folder of images, and masks of the same stem or with a ``_mask`` suffix; structure ``lungs``.

    If ``masks`` holds no mask files but sub-folders that do, each is a structure of that name, and an image
    needs a mask in each. ``images`` and ``masks`` may be one folder. Id and patient are the stem; ``meta``
    (see metadata.py) overrides patient and adds label and spacing.
    """
    require_folder(images, "images (PNG, JPEG, TIFF)")
    require_folder(masks, "masks, or one sub-folder of masks per structure")
    found, structures = image_files(images), _structures(masks)
    if images.resolve() == masks.resolve():
        suffixed = {stem: path for stem, path in found.items() if stem.endswith(MASK_SUFFIX)}
        found = {stem: path for stem, path in found.items() if stem not in suffixed}
        structures = {"lungs": suffixed}
    pairing = pair_up(found, structures)
    _require_pairs(pairing, images, masks, "the image's stem, with or without _mask")
    rows = _meta_rows(meta, found)

    def make(stem: str, image: Path, files: Mapping[str, Path]) -> FileRef:
        row = rows.get(stem, MetaRow())
        return FileRef(
            id=stem,
            image=image,
            masks=files,
            source="pairs",
            patient=row.patient or stem,
            label=row.label,
            spacing_mm=row.spacing_mm,
        )

    notes = _notes(pairing)
    n_unknown = sum(stem not in rows for stem in pairing.pairs)
    if meta is not None and n_unknown:
        notes += (f"{n_unknown} of {len(pairing.pairs)} images have no line in {meta.name}",)
    return Listing(refs=pairing.refs(make), notes=notes)


def _child_or_self(folder: Path, name: str, marker: str) -> Path:
    """``folder/name`` if it is there, else ``folder``, which must be a folder that holds ``marker``."""
    require_folder(folder, f"{name}/{marker}")
    if (folder / name).is_dir():
        return folder / name
    if not (folder / marker).is_dir():
        raise DataError(
            f"no {name} in {folder}", expected=f"{name}/{marker} or {marker}", fix="check the path"
        )
    return folder


def _mask_folder(root: Path, masks: Path | None) -> Path:
    """The folder that really holds ``*_mask`` files, at or below ``masks`` or in the usual places."""
    if masks is not None:
        require_folder(masks, "the Shenzhen masks (NAME_mask.png)")
        bases = [masks]
    else:
        bases = [at / name for at in (root, root.parent) for name in ("shcxr-lung-mask", "mask", "masks")]
    for base in bases:
        for place in (base, base / "mask", base / "mask" / "mask"):
            if place.is_dir() and any(stem.endswith(MASK_SUFFIX) for stem in image_files(place)):
                return place
    raise DataError(
        f"no Shenzhen masks in {masks or root.parent}",
        expected="files called CHNCXR_0001_0_mask.png in it, in mask/ or in mask/mask/",
        fix="give the unpacked Kaggle set yoctoman/shcxr-lung-mask with --masks",
    )


def _kaggle_roots(folder: Path) -> list[Path]:
    """Folders with CXR_png beside masks, at most three levels down, nearest first."""
    below = [folder, *(at for depth in ("*", "*/*", "*/*/*") for at in sorted(folder.glob(depth)))]
    return [at for at in below if (at / "CXR_png").is_dir() and (at / "masks").is_dir()]


def _structures(masks: Path) -> dict[str, dict[str, Path]]:
    """Structure -> mask files: ``masks`` itself as ``lungs``, or its sub-folders that hold images."""
    files = image_files(masks)
    if files:
        return {"lungs": files}
    folders = sorted(at for at in masks.iterdir() if at.is_dir() and not at.name.startswith("."))
    structures = {at.name: image_files(at) for at in folders}
    return {name: found for name, found in structures.items() if found} or {"lungs": {}}


def _require_pairs(pairing: Pairing, images: Path, masks: Path, mask_name: str) -> None:
    if pairing.pairs:
        return
    n_images, n_masks = len(pairing.without_mask), len(pairing.without_image)
    raise DataError(
        f"no image in {images} has its mask in {masks}",
        found=f"{n_images} images without mask and {n_masks} masks without image",
        expected=f"a mask called {mask_name} (PNG, JPEG, TIFF)",
        fix="check both folders and the names",
    )


def _notes(pairing: Pairing, *, with_names: bool = True) -> tuple[str, ...]:
    return left_out_notes(pairing.without_mask, pairing.without_image, with_names=with_names)


def _source(root: Path, name: str) -> str:
    """The set's name; generated X-rays in its layout never pass for it."""
    return f"{GENERATED}{name}" if (root / GENERATED_MARK).exists() else name


def _tb_ref(stem: str, image: Path, masks: Mapping[str, Path], source: str) -> FileRef:
    """Both tuberculosis sets end a name in its label: ``MCUCXR_0001_0`` is patient MCUCXR_0001, normal."""
    match = re.fullmatch(r"(.+)_([01])", stem)
    patient, label = (match[1], LABELS[match[2]]) if match else (stem, None)
    return FileRef(id=stem, image=image, masks=masks, source=source, patient=patient, label=label)


def _kaggle_ref(stem: str, image: Path, masks: Mapping[str, Path]) -> FileRef:
    return _tb_ref(stem, image, masks, _SOURCES.get(stem.partition("_")[0], "kaggle"))


def _meta_rows(meta: Path | None, images: Mapping[str, Path]) -> dict[str, MetaRow]:
    if meta is None:
        return {}
    rows = read_meta(meta)
    strangers = [name for name in rows if name not in images]
    if strangers:
        more = "" if len(strangers) <= 3 else f" and {len(strangers) - 3} more"
        raise DataError(
            f"{meta} names images that are not there",
            found=", ".join(strangers[:3]) + more,
            expected="the image's file name without extension as id",
        )
    return rows


def list_set(name: str, folder: Path, masks: Path | None = None, meta: Path | None = None) -> Listing:
    """A set by the name that ``embed`` knows it by; UsageError for one that is not known."""
    known: dict[str, tuple[Callable[[], Listing], set[str]]] = {
        "montgomery": (lambda: list_montgomery(folder), set()),
        "shenzhen": (lambda: list_shenzhen(folder, masks), {"masks"}),
        "kaggle": (lambda: list_kaggle(folder), set()),
        "pairs": (lambda: list_pairs(folder, masks or folder, meta), {"masks", "meta"}),
    }
    if name not in known:
        raise UsageError("the set is unknown", found=name, expected=", ".join(known))
    listed, takes = known[name]
    given = {what for what, path in (("masks", masks), ("meta", meta)) if path is not None}
    if given - takes:
        raise UsageError(f"{name} takes no {' or '.join(sorted(given - takes))}", fix="leave it out")
    if name == "pairs" and masks is None:
        raise UsageError("pairs need a folder of masks", fix="give the masks' folder that embed was given")
    return listed()
