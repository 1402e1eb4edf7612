"""What the results say of themselves: which encoder, how many folds and images, who is whose peer.

Comes in: :class:`Material`. Goes out: the few facts that tables, claims and sentences share, and the plain
sentences that keep a small encoder from being read as SAM.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lungfast.frozen.encoders import DecoderOrigin, decoder_origin
from lungfast.records import EncoderSpec
from lungfast.report.material import Content, Material
from lungfast.report.table import MINUS, ORACLE, TIMES, counted, listed

Row = Mapping[str, Any]
STUDIES = ("cv", "train", "grid", "thresholds", "baseline", "unet", "jitter", "quality")
LOSSES = {"dicefocal": "DiceFocal", "dicece": "DiceCE"}
PRETTY = {"vit_b": "SAM ViT-B", "vit_l": "SAM ViT-L", "vit_h": "SAM ViT-H"}


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """The frozen image encoder of a set's cache, and where its decoder starts from."""

    name: str
    input_size: int
    grid: tuple[int, int]
    weights_sha256: str
    origin: DecoderOrigin

    @property
    def label(self) -> str:
        if self.origin == "sam":
            return PRETTY.get(self.name, self.name)
        return f"{PRETTY[self.name][4:]} with weights of your own" if self.name in PRETTY else self.name

    @property
    def sentence(self) -> str:
        size = f"{self.input_size} px input, {self.grid[0]} {TIMES} {self.grid[1]} tokens"
        if self.origin == "sam":
            return f"{self.label} ({size}), Meta's weights; the paper does not say which variant it used."
        if self.origin == "custom":
            return (
                f"{self.label} ({size}, sha256 {self.weights_sha256[:12]}…): SAM's architecture, but not "
                "Meta's weights, so no number of ours here is SAM's."
            )
        return (
            f"{self.label} ({size}) is a small encoder that was trained with its decoder to segment lungs in "
            "generated X-rays alone. It is not SAM: no number of ours here is SAM's, and a difference to the "
            "paper compares two models."
        )


def contents(material: Material, set_name: str) -> Iterator[tuple[str, Content]]:
    """A set's studies, the most telling first."""
    studies = material.sets[set_name]
    order = {name: i for i, name in enumerate(STUDIES)}
    for name in sorted(studies, key=lambda name: order.get(name, len(order))):
        yield name, studies[name]


def encoder(material: Material, set_name: str) -> Encoder | None:
    """None where no result says what it was made with."""
    found = (encoder_of(content) for _, content in contents(material, set_name))
    return next((one for one in found if one), None)


def encoder_of(content: Content) -> Encoder | None:
    """What a study was made with; a transfer may name its caches one by one."""
    made = content.get("provenance", {})
    caches = [made.get("cache") or {}, *(made.get("caches") or {}).values()]
    spec = next((cache["encoder"] for cache in caches if cache.get("encoder")), None)
    if spec is None:
        return None
    return Encoder(
        name=spec["name"],
        input_size=spec["input_size"],
        grid=(spec["grid"][0], spec["grid"][1]),
        weights_sha256=spec["weights_sha256"],
        origin=_origin(spec),
    )


def encoders(material: Material) -> list[Encoder]:
    """Every encoder behind the results, once."""
    found = [encoder(material, name) for name in material.sets]
    if material.transfer is not None:
        found.append(encoder_of(material.transfer))
    return list(dict.fromkeys(one for one in found if one))


def _origin(spec: Mapping[str, Any]) -> DecoderOrigin:
    known = ("name", "input_size", "channels", "resize", "weights_sha256")
    return decoder_origin(EncoderSpec(grid=tuple(spec["grid"]), **{key: spec[key] for key in known}))


def starts_from_sam(material: Material, set_name: str) -> bool:
    """Whether the decoder before fine-tuning is Meta's."""
    found = encoder(material, set_name)
    return found is not None and found.origin == "sam"


def finished(content: Content | None) -> list[Row]:
    """Rows with scores; a row whose decoders diverged has none."""
    return [row for row in (content or {}).get("rows", ()) if row.get("f1")]


def label(row: Row) -> str:
    """The row's key, marked where its prompt needs the ground truth."""
    text = named(str(row.get("key") or row["prompt"]))
    if row.get("mask") == "best of three" and "best of three" not in text:
        text += ", best of three"
    if row.get("untrained"):
        text += f" ({UNTRAINED})"
    return f"{text} {ORACLE}" if row.get("needs_ground_truth") else text


def named(keys: str) -> str:
    """Keys of rows as a reader sees them: a loss stands in brackets, as commas stand between rows."""
    for loss, name in LOSSES.items():
        keys = keys.replace(f", {loss}", f" ({name})")
    return keys.replace("unet", "U-Net")


def row_of(content: Content | None, prompt: str) -> Row | None:
    """The finished row of a prompt: of several losses DiceFocal's, of several masks the single one."""
    rows = [row for row in finished(content) if row.get("prompt") == prompt]
    rows = [row for row in rows if row.get("mask", "single") == "single"]
    return min(rows, key=lambda row: row.get("loss") == "dicece", default=None)


def leading(rows: Sequence[Row]) -> list[Row]:
    """Of a transfer's rows (or comparisons) those of one prompt.

    Points where they were run, as the paper's; else the first that needs no ground truth; else the first.
    """
    free = [row for row in rows if not row.get("needs_ground_truth")]
    keys = [str(row["of"]) for row in (*free, *rows)]
    lead = "points" if "points" in keys else next(iter(keys), "")
    return [row for row in rows if row["of"] == lead]


def travelling(row: Row) -> str:
    """Whose decoders a row of a transfer is about, marked where they need the ground truth."""
    return f"{row['of']} {ORACLE}" if row.get("needs_ground_truth") else str(row["of"])


def best_row(content: Content | None, *, oracle: bool = False) -> Row | None:
    """The highest mean F1 over folds, of prompts without ground truth unless ``oracle``."""
    rows = [row for row in finished(content) if oracle or not row.get("needs_ground_truth")]
    return max(rows, key=lambda row: float(row["f1"]["mean"]), default=None)


def folds_sentence(content: Content) -> str:
    """How many folds, seeds and epochs stand behind a study's numbers."""
    rows = finished(content)
    n_folds = len(rows[0]["f1"]["folds"]) if rows else 0
    seeds = max((len(row.get("seeds") or [0]) for row in rows), default=1)
    train = content.get("provenance", {}).get("settings", {}).get("train", {})
    parts = [counted(n_folds, "fold"), f"{counted(seeds, 'seed')} a fold"]
    if train.get("epochs") and content.get("study") in {"cv", "train", "thresholds", "grid"}:
        parts.append(counted(train["epochs"], "epoch"))
    return ", ".join(parts)


def n_images(material: Material, set_name: str) -> int | None:
    for _, content in contents(material, set_name):
        found = content.get("provenance", {}).get("cache", {}).get("images")
        if found is not None:
            return int(found)
    return None


def protocol_notes(material: Material, study: str) -> list[str]:
    """Folds, encoder and whether the X-rays are generated, of sets that ran ``study``; equal texts once."""
    told: dict[str, list[str]] = {}
    for name in material.sets:
        content = material.study(name, study)
        if content is None:
            continue
        told.setdefault(f"Ours: {folds_sentence(content)}.", []).append(name)
        found = encoder(material, name)
        if found:
            told.setdefault(f"Encoder: {found.sentence}", []).append(name)
        if material.is_generated(name):
            told.setdefault(GENERATED, []).append(name)
    everywhere = len({name for names in told.values() for name in names})
    return [
        text if len(names) == everywhere else f"{listed([title(name) for name in names])}: {text}"
        for text, names in told.items()
    ]


def encoder_tag(material: Material) -> str:
    """For a caption: which encoder stands behind our numbers, is it SAM, are the X-rays generated."""
    tags = [one.label if one.origin == "sam" else f"{one.label} (not SAM)" for one in encoders(material)]
    drawn = "; generated X-rays" if any(map(material.is_generated, material.sets)) else ""
    return (f"; encoder {listed(list(dict.fromkeys(tags)))}" if tags else "") + drawn


UNTRAINED = "untrained, chance level"
GENERATED = "Its X-rays are generated, not of patients: no difference to the paper is taken."
AVERAGING = (
    f"F1 and IoU are means over a fold's images at native size, ± std over folds (n {MINUS} 1); per image: "
    "mean over all test images with a 95 % bootstrap interval over patients. The paper does not say how it "
    "averages."
)


def title(set_name: str) -> str:
    """A set's name as a heading: the paper's two capitalised, others as given."""
    return set_name.capitalize() if set_name in {"montgomery", "shenzhen"} else set_name
