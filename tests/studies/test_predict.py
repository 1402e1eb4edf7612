"""predict on files: what the study scored, bit for bit; odd images, bad files, boxes, a killed pass."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from lungfast.data.images import read_image
from lungfast.errors import CheckpointError, DataError, RunError, UsageError
from lungfast.frozen.cache import EmbeddingCache
from lungfast.geometry import Frame
from lungfast.scored.kernels import predict_mask
from lungfast.studies.mask_files import overlay_png, polygons
from lungfast.studies.models import FinishedRun
from lungfast.studies.predict import Request, models_of, predict
from lungfast.studies.session import Quiet

CPU = torch.device("cpu")


def films(phantoms: Path) -> Path:
    return phantoms / "MontgomerySet" / "CXR_png"


def run_predict(run: Path, images: list[Path], output: Path, **options: Any) -> dict[str, Any]:
    listener = options.pop("listener", Quiet())
    request = Request(run=run, images=tuple(images), output=output, **options)
    return predict(request, device=CPU, listener=listener)


def mask_of(output: Path, name: str) -> np.ndarray:
    values = np.asarray(Image.open(output / "masks" / f"{name}.png"))
    assert set(np.unique(values)) <= {0, 255}
    return values > 0


def test_a_decoder_gives_the_masks_that_its_study_scored(
    trained_run: Path, nano_cache: str, phantoms: Path, tmp_path: Path
) -> None:
    with (trained_run / "per_image.csv").open() as file:
        tested = [row for row in csv.DictReader(file) if row["part"] == "test"]
    decoder = tested[0]["decoder"]
    wanted = {row["image"]: float(row["f1"]) for row in tested if row["decoder"] == decoder}
    images = [films(phantoms) / f"{image}.png" for image in wanted]
    run_predict(trained_run, images, tmp_path / "out", decoder=decoder)
    cache = EmbeddingCache.open(nano_cache)
    for i, record in enumerate(cache.images):
        if record.id in wanted:
            truth_HW, mask_HW = cache.mask(i), mask_of(tmp_path / "out", record.id)
            f1 = 2 * (truth_HW & mask_HW).sum() / (truth_HW.sum() + mask_HW.sum())
            assert f1 == pytest.approx(wanted[record.id], abs=1e-12)


@pytest.fixture(scope="module")
def odd(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of every kind, two with one stem, and a damaged file among them."""
    folder = tmp_path_factory.mktemp("odd")
    film = Image.open(sorted(films(phantoms).iterdir())[0])
    grey_HW = np.asarray(film)
    Image.fromarray(grey_HW.astype(np.uint16) * 257).save(folder / "a16.png")
    film.convert("RGB").save(folder / "colour.jpg")
    film.save(folder / "colour.tiff")
    film.resize((90, 200)).save(folder / "portrait.png")
    film.resize((200, 90)).save(folder / "landscape.tif")
    Image.fromarray(np.full((60, 70), 93, np.uint8)).save(folder / "constant.png")
    Image.fromarray(np.full((1, 1), 200, np.uint8)).save(folder / "pixel.png")
    Image.fromarray(grey_HW[:1]).save(folder / "line.png")
    (folder / "damaged.png").write_bytes((folder / "a16.png").read_bytes()[:900])
    return folder


@pytest.fixture(scope="module")
def odd_out(trained_run: Path, odd: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    output = tmp_path_factory.mktemp("predicted") / "out"
    return output, run_predict(trained_run, [odd], output)


def test_odd_images_get_masks_of_their_size_and_a_damaged_one_a_line(
    odd_out: tuple[Path, Any], odd: Path
) -> None:
    output, content = odd_out
    assert len(content["skipped"]) == 1
    assert "damaged.png" in content["skipped"][0]
    names = [row["image"] for row in content["rows"]]
    assert names == ["a16", "colour", "colour-2", "constant", "landscape", "line", "pixel", "portrait"]
    for row in content["rows"]:
        mask_HW = mask_of(output, row["image"])
        assert mask_HW.shape == read_image(Path(row["file"])).shape == (row["height"], row["width"])
        assert row["total_area_px"] == mask_HW.sum() == row["left_area_px"] + row["right_area_px"]
        assert row["area_share"] == pytest.approx(mask_HW.mean())
        assert 0 <= row["quality"] <= 1
        assert 0 <= row["disagreement"] <= 1
        overlay = Image.open(output / "overlays" / f"{row['image']}.png")
        assert overlay.size == (row["width"], row["height"])
    by_name = {row["image"]: row for row in content["rows"]}
    assert "constant image" in by_name["constant"]["note"]
    assert by_name["constant"]["flag"] == "look at this one"
    assert by_name["colour"]["quality"] == pytest.approx(by_name["colour-2"]["quality"], abs=0.05)
    assert mask_of(output, "a16").shape == mask_of(output, "colour-2").shape


def test_a_negative_is_flagged(trained_run: Path, phantoms: Path, tmp_path: Path) -> None:
    film_HW = read_image(sorted(films(phantoms).iterdir())[0])
    for name, image_HW in (("film", film_HW), ("negative", 255 - film_HW)):
        Image.fromarray(image_HW).save(tmp_path / f"{name}.png")
    rows = run_predict(trained_run, [tmp_path / "film.png", tmp_path / "negative.png"], tmp_path / "out")[
        "rows"
    ]
    assert ["perhaps a negative" in row["note"] for row in rows] == [False, True]
    assert rows[1]["flag"] == "look at this one"


def test_the_table_and_the_results_say_the_same(odd_out: tuple[Path, Any]) -> None:
    output, content = odd_out
    with (output / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    masks = [line for line in rows if line["flag"] != "skipped"]
    assert [line["note"] for line in rows[len(masks) :]] == content["skipped"]
    for line, row in zip(masks, content["rows"], strict=True):
        assert line == {key: str(value) for key, value in row.items()}
        one = json.loads((output / "contours" / f"{row['image']}.json").read_text())
        assert one["prediction"] == row
    assert json.loads((output / "results.json").read_text()) == content
    assert {"schema", "study", "rows", "provenance"} <= set(content)
    assert "not calibrated" in content["notes"][0]


def test_the_ensemble_is_the_mean_of_logits(trained_run: Path, phantoms: Path, tmp_path: Path) -> None:
    from lungfast.studies.ensemble import Ensemble, run_encoder

    run = FinishedRun.open(trained_run)
    models = models_of(run, None)
    assert [model.fold for model in models] == ["fold-0", "fold-1", "fold-2"]
    image = sorted(films(phantoms).iterdir())[0]
    content = run_predict(trained_run, [image], tmp_path / "out")
    encoder = run_encoder(run, None, device=CPU)
    alone = [Ensemble([m], encoder, prompt=m.prompt, like=run.fingerprint) for m in models]
    image_HW = read_image(image)
    logits = [one.logits([image_HW], ids=[image.stem])[0, 0] for one in alone]
    mean_hw = np.mean(logits, axis=0, dtype=np.float32)
    odds = np.exp(np.mean([np.log(m.threshold / (1 - m.threshold)) for m in models]))
    assert content["rows"][0]["threshold"] == pytest.approx(odds / (1 + odds))
    expected_HW = predict_mask(mean_hw, alone[0].frame(image_HW), content["rows"][0]["threshold"])
    assert np.array_equal(mask_of(tmp_path / "out", image.stem), expected_HW)


class Killer(Quiet):
    """Ctrl-C after some images."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def advance(self, n: int = 1) -> None:
        self.left -= n
        if self.left < 0:
            raise KeyboardInterrupt


def test_a_killed_pass_goes_on(
    trained_run: Path, odd: Path, odd_out: tuple[Path, Any], tmp_path: Path
) -> None:
    output, whole = tmp_path / "out", odd_out[1]
    with pytest.raises(KeyboardInterrupt):
        run_predict(trained_run, [odd], output, listener=Killer(3))
    assert not (output / "results.json").exists()
    with pytest.raises(UsageError, match="unfinished"):
        run_predict(trained_run, [odd], output)
    again = run_predict(trained_run, [odd], output, resume=True)
    assert again == whole
    assert run_predict(trained_run, [odd], output, resume=True) == whole
    with pytest.raises(RunError, match="differs"):
        run_predict(trained_run, [odd / "a16.png"], output, resume=True)
    fewer = run_predict(trained_run, [odd / "a16.png"], output, overwrite=True)
    assert [path.name for path in (output / "masks").iterdir()] == ["a16.png"]
    assert len(fewer["rows"]) == 1


def test_boxes_are_needed_where_they_were_trained_with(
    trained_run: Path, phantoms: Path, tmp_path: Path
) -> None:
    images = sorted(films(phantoms).iterdir())[:2]
    with pytest.raises(UsageError, match="box-auto"):
        run_predict(trained_run, images, tmp_path / "a", decoder="box")
    boxes = tmp_path / "boxes.csv"
    boxes.write_text(f"image,x0,y0,x1,y1\n{images[0].stem},5,5,{Image.open(images[0]).width - 5},100\n")
    content = run_predict(trained_run, images, tmp_path / "b", decoder="box", boxes=boxes)
    assert [row["prompt"] for row in content["rows"]] == ["box"]
    assert images[1].name in content["skipped"][0]
    auto = run_predict(trained_run, images, tmp_path / "c", decoder="box", prompt="box-auto", batch_size=2)
    assert [row["prompt"] for row in auto["rows"]] == ["box-auto"] * 2
    assert "average training mask" in auto["notes"][0]
    with pytest.raises(UsageError, match="no use"):
        run_predict(trained_run, images, tmp_path / "d", boxes=boxes)
    with pytest.raises(UsageError, match="not trained for --prompt both"):
        run_predict(trained_run, images, tmp_path / "d", prompt="both")
    assert not (tmp_path / "d").exists()


def test_what_is_refused(trained_run: Path, phantoms: Path, tmp_path: Path) -> None:
    images = sorted(films(phantoms).iterdir())[:1]
    with pytest.raises(RunError, match="not a run"):
        run_predict(tmp_path, images, tmp_path / "out")
    copy = shutil.copytree(trained_run, tmp_path / "copy")
    content = json.loads((copy / "results.json").read_text())
    content["provenance"]["cache"]["encoder"]["weights_sha256"] = "0" * 64
    (copy / "results.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match="another nano encoder"):
        run_predict(copy, images, tmp_path / "out")
    content["provenance"]["cache"]["encoder"]["name"] = "vit_b"
    (copy / "results.json").write_text(json.dumps(content))
    (tmp_path / "w.pth").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="did not make the embeddings"):
        run_predict(copy, images, tmp_path / "out", checkpoint=tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="needs SAM's weights"):
        run_predict(copy, images, tmp_path / "out")
    (copy / "results.json").unlink()
    with pytest.raises(RunError, match="unfinished"):
        run_predict(copy, images, tmp_path / "out")
    with pytest.raises(UsageError, match="the run itself"):
        run_predict(trained_run, images, trained_run, overwrite=True)
    with pytest.raises(UsageError, match="--decoder"):
        run_predict(trained_run, images, tmp_path / "out", decoder="fold-9")
    with pytest.raises(UsageError, match="--checkpoint"):
        run_predict(trained_run, images, tmp_path / "out", checkpoint=tmp_path / "w.pth")
    with pytest.raises(DataError, match=r"cannot read .*none\.csv"):
        run_predict(trained_run, images, tmp_path / "out", decoder="box", boxes=tmp_path / "none.csv")
    assert not (tmp_path / "out").exists()


# --- drawing ---------------------------------------------------------------------------------------

BLOBS_hw = np.fromfunction(
    lambda y, x: 6 - 0.02 * np.minimum((y - 30) ** 2 + (x - 12) ** 2, (y - 25) ** 2 + (x - 40) ** 2), (64, 64)
).astype(np.float32)


@pytest.mark.parametrize("size", [(300, 250), (250, 300), (700, 700), (40, 33), (1, 50), (1, 1)])
def test_polygons_enclose_the_mask(size: tuple[int, int]) -> None:
    logits_hw = BLOBS_hw.copy()
    logits_hw[28:33, 10:14] = -3  # a hole
    frame = Frame.of(size, 256, "longest")
    mask_HW = predict_mask(logits_hw, frame, 0.6)
    outlines = polygons(frame, logits_hw, 0.6)
    scale = 4
    canvas = Image.new("1", (size[1] * scale, size[0] * scale))
    pen = ImageDraw.Draw(canvas)
    for hole in (False, True):
        for outline in outlines:
            if outline["hole"] == hole:
                assert outline["points"][0] == outline["points"][-1]
                corners = [(x * scale, y * scale) for x, y in outline["points"]]
                pen.polygon(corners, fill=not hole)
    drawn_HW = np.asarray(canvas)[scale // 2 :: scale, scale // 2 :: scale]
    if min(size) > 30:
        assert sum(outline["hole"] for outline in outlines) == 1
        assert 2 * (drawn_HW & mask_HW).sum() / (drawn_HW.sum() + mask_HW.sum()) > 0.98
    points = [point for outline in outlines for point in outline["points"]]
    assert all(0 <= x <= size[1] and 0 <= y <= size[0] for x, y in points)
    assert polygons(frame, np.full((64, 64), -1, np.float32), 0.5) == []


def test_an_overlay_is_small_and_shows_the_mask(tmp_path: Path) -> None:
    image_HW = np.full((1500, 2000), 90, np.uint8)
    content = overlay_png(image_HW, Frame.of((1500, 2000), 256, "longest"), BLOBS_hw, 0.5)
    (tmp_path / "o.png").write_bytes(content)
    picture = np.asarray(Image.open(tmp_path / "o.png"))
    assert picture.shape == (768, 1024, 3)
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) == 3
