"""Layouts with all the oddities people's folders have; every complaint is one line that names the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lungfast.data.datasets import list_kaggle, list_montgomery, list_pairs, list_shenzhen
from lungfast.errors import DataError
from lungfast.records import Listing


def image(path: Path, *, size: tuple[int, int] = (12, 10), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size).astype(np.uint8)).save(path)
    return path


def mask(path: Path, *, size: tuple[int, int] = (12, 10), columns: slice = slice(2, 5)) -> Path:
    mask_HW = np.zeros(size, np.uint8)
    mask_HW[2:9, columns] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask_HW).save(path)
    return path


def litter(folder: Path) -> None:
    """What operating systems leave behind."""
    for name in ("Thumbs.db", ".DS_Store", "._a.png", ".hidden.png", "readme.txt"):
        (folder / name).write_bytes(b"no image")
    (folder / "folder.png").mkdir()


def ids(listing: Listing) -> list[str]:
    return [ref.id for ref in listing.refs]


def one_line(error: pytest.ExceptionInfo[DataError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# --- montgomery ------------------------------------------------------------------------------------


def montgomery(root: Path, names: tuple[str, ...] = ("MCUCXR_0002_1", "MCUCXR_0001_0")) -> Path:
    folder = root / "MontgomerySet"
    for seed, name in enumerate(names):
        image(folder / "CXR_png" / f"{name}.png", seed=seed)
        mask(folder / "ManualMask/leftMask" / f"{name}.png", columns=slice(6, 9))
        mask(folder / "ManualMask/rightMask" / f"{name}.png", columns=slice(1, 4))
    litter(folder / "CXR_png")
    litter(folder / "ManualMask/leftMask")
    return folder


def test_montgomery_by_either_folder(tmp_path: Path) -> None:
    folder = montgomery(tmp_path)
    for at in (tmp_path, folder):
        listing = list_montgomery(at)
        assert ids(listing) == ["MCUCXR_0001_0", "MCUCXR_0002_1"]
        assert listing.notes == ()
        assert not listing.drop_duplicates
    first, second = (ref.load() for ref in listing.refs)
    assert (first.label, second.label) == ("normal", "tuberculosis")
    assert (first.patient, first.source, first.spacing_mm) == ("MCUCXR_0001", "montgomery", None)
    assert first.masks["left"][5].nonzero()[0].tolist() == [6, 7, 8]
    assert first.masks["right"][5].nonzero()[0].tolist() == [1, 2, 3]
    assert first.native_size == (12, 10)


@pytest.mark.parametrize(
    ("size", "spacing"), [((4020, 4892), 0.0875), ((4892, 4020), 0.0875), ((4892, 4021), None)]
)
def test_montgomery_spacing_needs_the_official_size(
    tmp_path: Path, size: tuple[int, int], spacing: float | None
) -> None:
    for part in ("CXR_png", "ManualMask/leftMask", "ManualMask/rightMask"):
        place = tmp_path / part
        place.mkdir(parents=True)
        Image.new("L", size[::-1]).save(place / "MCUCXR_0001_0.png", compress_level=1)
    sample = list_montgomery(tmp_path).refs[0].load()
    assert sample.spacing_mm == (spacing and (spacing, spacing))


def test_montgomery_orphans_are_named_and_left_out(tmp_path: Path) -> None:
    folder = montgomery(tmp_path)
    (folder / "ManualMask/leftMask/MCUCXR_0002_1.png").unlink()
    mask(folder / "ManualMask/rightMask/MCUCXR_0009_1.png")
    listing = list_montgomery(tmp_path)
    assert ids(listing) == ["MCUCXR_0001_0"]
    assert listing.notes == (
        "1 image has no mask and is left out: MCUCXR_0002_1",
        "1 mask has no image and is left out: MCUCXR_0009_1",
    )


def test_montgomery_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found nothing there; expected a folder with MontgomerySet") as error:
        list_montgomery(tmp_path / "absent")
    assert str(tmp_path / "absent") in one_line(error)
    with pytest.raises(DataError, match="no MontgomerySet in"):
        list_montgomery(tmp_path)
    shutil.rmtree(montgomery(tmp_path) / "ManualMask/rightMask")
    with pytest.raises(DataError, match="rightMask"):
        list_montgomery(tmp_path)


# --- shenzhen --------------------------------------------------------------------------------------


def shenzhen(root: Path, masks: str = "mask", n: int = 3, n_masks: int = 2) -> Path:
    for i in range(1, n + 1):
        image(root / "ChinaSet_AllFiles/CXR_png" / f"CHNCXR_000{i}_{i % 2}.png", seed=i)
        if i <= n_masks:
            mask(root / masks / f"CHNCXR_000{i}_{i % 2}_mask.png")
    litter(root / masks)
    return root


@pytest.mark.parametrize("masks", ["mask", "elsewhere/mask", "elsewhere/mask/mask", "elsewhere", "masks"])
def test_shenzhen_mask_folders(tmp_path: Path, masks: str) -> None:
    shenzhen(tmp_path, masks)
    given = tmp_path / masks.split("/", maxsplit=1)[0]
    for at in (tmp_path, tmp_path / "ChinaSet_AllFiles"):
        for mask_folder in (given, tmp_path / masks):
            listing = list_shenzhen(at, mask_folder)
            assert ids(listing) == ["CHNCXR_0001_1", "CHNCXR_0002_0"]
            assert listing.notes == ("1 image has no mask and is left out",)
    sample = listing.refs[0].load()
    assert list(sample.masks) == ["lungs"]
    assert (sample.label, sample.patient, sample.source) == ("tuberculosis", "CHNCXR_0001", "shenzhen")


def test_shenzhen_finds_masks_beside_the_images_or_says_where_they_come_from(tmp_path: Path) -> None:
    shenzhen(tmp_path, "shcxr-lung-mask/mask", n_masks=1)
    listing = list_shenzhen(tmp_path / "ChinaSet_AllFiles", None)
    assert listing.notes == ("2 images have no mask and are left out",)
    shutil.rmtree(tmp_path / "shcxr-lung-mask")
    with pytest.raises(DataError, match="shcxr-lung-mask with --masks"):
        list_shenzhen(tmp_path, None)
    with pytest.raises(DataError, match="no Shenzhen masks in"):
        list_shenzhen(tmp_path, tmp_path / "ChinaSet_AllFiles")


# --- kaggle ----------------------------------------------------------------------------------------


def kaggle_copy(root: Path) -> None:
    for name, suffix in (("MCUCXR_0001_0", ""), ("CHNCXR_0001_1", "_mask")):
        image(root / "CXR_png" / f"{name}.png", seed=len(suffix))
        mask(root / "masks" / f"{name}{suffix}.png")
    image(root / "CXR_png/CHNCXR_0002_1.png")
    (root / "test").mkdir()


def test_kaggle_holds_every_pair_twice(tmp_path: Path) -> None:
    kaggle_copy(tmp_path / "Lung Segmentation")
    kaggle_copy(tmp_path / "data/Lung Segmentation")
    listing = list_kaggle(tmp_path)
    assert listing.drop_duplicates
    assert ids(listing) == ["CHNCXR_0001_1", "CHNCXR_0001_1@2", "MCUCXR_0001_0", "MCUCXR_0001_0@2"]
    assert listing.notes == ("1 image has no mask and is left out",)
    first, copy, other, _ = (ref.load() for ref in listing.refs)
    assert first.content_sha256 == copy.content_sha256 != other.content_sha256
    assert first.patient == copy.patient
    assert (first.source, other.source) == ("shenzhen", "montgomery")


@pytest.mark.parametrize("place", [".", "Lung Segmentation", "Lung Segmentation/Lung Segmentation", "a/b/c"])
def test_kaggle_nested(tmp_path: Path, place: str) -> None:
    kaggle_copy(tmp_path / place)
    assert ids(list_kaggle(tmp_path)) == ["CHNCXR_0001_1", "MCUCXR_0001_0"]


def test_kaggle_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no Lung Segmentation in"):
        list_kaggle(tmp_path)
    with pytest.raises(DataError, match="nothing there"):
        list_kaggle(tmp_path / "absent")


# --- pairs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", "_mask"])
def test_pairs_by_stem(tmp_path: Path, suffix: str) -> None:
    for name in ("b.PNG", "a.jpeg", "c.Tif", "d.x.png"):
        image(tmp_path / "images" / name)
        mask(tmp_path / "masks" / f"{Path(name).stem}{suffix}.png")
    litter(tmp_path / "images")
    litter(tmp_path / "masks")
    listing = list_pairs(tmp_path / "images", tmp_path / "masks")
    assert ids(listing) == ["a", "b", "c", "d.x"]
    assert listing.notes == ()
    sample = listing.refs[1].load()
    assert (sample.patient, sample.label, sample.spacing_mm, list(sample.masks)) == (
        "b",
        None,
        None,
        ["lungs"],
    )


def test_pairs_in_one_folder(tmp_path: Path) -> None:
    for name in ("a", "b"):
        image(tmp_path / f"{name}.png")
        mask(tmp_path / f"{name}_mask.png")
    assert ids(list_pairs(tmp_path, tmp_path)) == ["a", "b"]


def test_an_image_whose_own_name_ends_in_mask(tmp_path: Path) -> None:
    image(tmp_path / "images/gas_mask.png")
    mask(tmp_path / "masks/gas_mask.png")
    assert ids(list_pairs(tmp_path / "images", tmp_path / "masks")) == ["gas_mask"]


def test_pairs_with_a_folder_per_structure(tmp_path: Path) -> None:
    for name in ("a", "b"):
        image(tmp_path / "images" / f"{name}.png")
        mask(tmp_path / "masks/left" / f"{name}.png", columns=slice(6, 9))
    mask(tmp_path / "masks/heart/a_mask.png")
    (tmp_path / "masks/empty").mkdir()
    listing = list_pairs(tmp_path / "images", tmp_path / "masks")
    assert ids(listing) == ["a"]
    assert listing.notes == ("1 image has no mask and is left out: b",)
    assert sorted(listing.refs[0].load().masks) == ["heart", "left"]


def test_pairs_name_the_first_three_orphans(tmp_path: Path) -> None:
    for name in "abcde":
        image(tmp_path / "images" / f"{name}.png")
    for name in "azyx":
        mask(tmp_path / "masks" / f"{name}.png")
    listing = list_pairs(tmp_path / "images", tmp_path / "masks")
    assert listing.notes == (
        "4 images have no mask and are left out: b, c, d, ...",
        "3 masks have no image and are left out: x, y, z",
    )


def test_pairs_that_do_not_pair(tmp_path: Path) -> None:
    image(tmp_path / "images/a.png")
    mask(tmp_path / "masks/b.png")
    with pytest.raises(DataError) as error:
        list_pairs(tmp_path / "images", tmp_path / "masks")
    assert "found 1 images without mask and 1 masks without image" in one_line(error)
    assert str(tmp_path / "images") in one_line(error)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="found 0 images"):
        list_pairs(tmp_path / "none", tmp_path / "none")
    with pytest.raises(DataError, match="found a file"):
        list_pairs(tmp_path / "images/a.png", tmp_path / "masks")
    with pytest.raises(DataError, match="absent"):
        list_pairs(tmp_path / "images", tmp_path / "absent")


def test_two_files_for_one_id(tmp_path: Path) -> None:
    image(tmp_path / "images/a.png")
    mask(tmp_path / "masks/a.png")
    mask(tmp_path / "masks/a_mask.png")
    with pytest.raises(DataError, match=r"found a\.png and a_mask\.png"):
        list_pairs(tmp_path / "images", tmp_path / "masks")
    image(tmp_path / "images/a.jpg")
    with pytest.raises(DataError, match=r"found a\.jpg and a\.png"):
        list_pairs(tmp_path / "images", tmp_path / "masks")


def test_sizes_that_differ_name_both_files_and_sizes(tmp_path: Path) -> None:
    at = image(tmp_path / "images/a.png")
    mask_at = mask(tmp_path / "masks/a.png", size=(10, 12))
    ref = list_pairs(tmp_path / "images", tmp_path / "masks").refs[0]
    with pytest.raises(DataError) as error:
        ref.load()
    assert f"{mask_at} is 10 x 12, {at} is 12 x 10" in one_line(error)


def test_a_damaged_image_is_found_when_it_is_loaded(tmp_path: Path) -> None:
    for name in "ab":
        image(tmp_path / "images" / f"{name}.png")
        mask(tmp_path / "masks" / f"{name}.png")
    damaged = tmp_path / "images/a.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    first, second = list_pairs(tmp_path / "images", tmp_path / "masks").refs
    with pytest.raises(DataError, match=r"a\.png"):
        first.load()
    assert second.load().id == "b"


# --- meta ------------------------------------------------------------------------------------------


@pytest.fixture
def two_pairs(tmp_path: Path) -> Path:
    for name in "ab":
        image(tmp_path / "images" / f"{name}.png")
        mask(tmp_path / "masks" / f"{name}.png")
    return tmp_path


def with_meta(root: Path, text: str) -> Listing:
    (root / "meta.csv").write_text(text, encoding="utf-8")
    return list_pairs(root / "images", root / "masks", root / "meta.csv")


def test_meta_gives_label_patient_and_spacing(two_pairs: Path) -> None:
    listing = with_meta(two_pairs, "\ufeffid,label,patient,spacing_mm\nb, sick ,P7,0.14\na,,,\n")
    plain, known = (ref.load() for ref in listing.refs)
    assert (known.label, known.patient, known.spacing_mm) == ("sick", "P7", (0.14, 0.14))
    assert (plain.label, plain.patient, plain.spacing_mm) == (None, "a", None)
    assert listing.notes == ()


def test_blanks_around_the_names_of_columns_are_no_part_of_them(two_pairs: Path) -> None:
    assert with_meta(two_pairs, "id, label\na,x\nb,y\n").notes == ()


def test_meta_with_two_spacings_and_missing_lines(two_pairs: Path) -> None:
    listing = with_meta(two_pairs, "id,spacing_x_mm,spacing_y_mm\na,0.1,0.2\n")
    assert listing.refs[0].load().spacing_mm == (0.2, 0.1)
    assert listing.notes == ("1 of 2 images have no line in meta.csv",)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "has no column id; found no header"),
        ("name,label\na,x\n", "has no column id; found name, label"),
        ("id,age\na,3\n", "unknown or repeated column; found age"),
        ("id,label,label\na,x,y\n", "unknown or repeated column; found label"),
        ("id,spacing_x_mm\na,0.1\n", "only one of the columns"),
        ("id,spacing_mm,spacing_x_mm,spacing_y_mm\na,1,1,1\n", "keep one of the two"),
        ("id,label\nzz,x\n", "names images that are not there; found zz"),
        ("id,label\na,x\na,y\n", "line 3: id is repeated; found 'a'"),
        ("id,label\n,x\n", "line 2: id is empty"),
        ('id,patient\na,"p0\nb,p0\n', "unexpected end of data"),
        ('id,patient\na,"p0\nb",p0\n', "too few or too many cells"),
        ('id,patient\na,"p0\n"\n', "a cell goes over several lines; found patient -> look for a quote"),
        ("id,patient\na,p\0\n", "line 2 is no text; found a zero byte in patient"),
        ('"id";"label"\n"a";"x"\n', "separated by semicolons"),
        ("id;label\na;x\n", "separated by semicolons -> save it separated by commas"),
        ("id,label\na,x,y\n", "line 2 has too few or too many cells"),
        ("id,label\na\n", "line 2 has too few or too many cells"),
        ("id,spacing_mm\na,wide\n", "line 2: spacing_mm is not a length; found 'wide'"),
        ("id,spacing_mm\na,-1\n", "found '-1'"),
        ("id,spacing_mm\na,nan\n", "found 'nan'"),
        ("id,spacing_x_mm,spacing_y_mm\na,0.1,\n", "spacing_y_mm is not a length; found ''"),
    ],
)
def test_meta_complaints(two_pairs: Path, text: str, complaint: str) -> None:
    with pytest.raises(DataError) as error:
        with_meta(two_pairs, text)
    assert complaint in one_line(error)
    assert "meta.csv" in one_line(error)


def test_meta_that_cannot_be_read(two_pairs: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read .*absent\.csv"):
        list_pairs(two_pairs / "images", two_pairs / "masks", two_pairs / "absent.csv")
    (two_pairs / "meta.csv").write_bytes(b"id,label\na,\xff\xfe\n")
    with pytest.raises(DataError, match="UTF-8"):
        list_pairs(two_pairs / "images", two_pairs / "masks", two_pairs / "meta.csv")


# --- the real X-rays -------------------------------------------------------------------------------


@pytest.mark.real
def test_real_folders(real_data: Path) -> None:
    montgomery_set = list_montgomery(real_data)
    shenzhen_set = list_shenzhen(real_data, real_data / "shcxr-lung-mask")
    assert len(montgomery_set.refs) == 138
    assert montgomery_set.notes == ()
    assert len(shenzhen_set.refs) == 566
    assert shenzhen_set.notes == ("96 images have no mask and are left out",)
    for ref in (*montgomery_set.refs[::40], *shenzhen_set.refs[::150]):
        sample = ref.load()
        share = np.logical_or.reduce(list(sample.masks.values())).mean()
        assert 0.08 < share < 0.5
