"""What the page carries inside itself: images as data URIs, numbers as JSON that no name can break out of."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
from PIL import Image

from lungfast.records import UInt8
from lungfast.report.material import Example

LONGEST = 384
"""Pixels of an embedded example: twice what it is shown at; 16 of them take 0.9 MB."""


def data_uri(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    if kind == "jpeg":
        image.save(buffer, "JPEG", quality=85)
    else:
        image.save(buffer, "PNG", optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def example_images(example: Example) -> dict[str, str]:
    """Preview (JPEG: it is only looked at), probability and truth (PNG: they are counted)."""
    truth_HW = np.where(example.truth_HW, 255, 0).astype(np.uint8)
    return {
        "preview": data_uri(_shrunk(example.preview_HW, Image.Resampling.LANCZOS), "jpeg"),
        "prob": data_uri(_shrunk(example.prob_HW, Image.Resampling.BILINEAR), "png"),
        "truth": data_uri(_shrunk(truth_HW, Image.Resampling.NEAREST), "png"),
    }


def shown_size(example: Example) -> tuple[int, int]:
    """(width, height) of the embedded images."""
    height, width = example.preview_HW.shape
    ratio = min(1.0, LONGEST / max(height, width))
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def _shrunk(grey_HW: UInt8, how: Image.Resampling) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(grey_HW))
    ratio = min(1.0, LONGEST / max(image.size))
    size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    return image if size == image.size else image.resize(size, how)


def safe_json(content: Any) -> str:
    """JSON for inside ``<script>``: no character of it can end the element or start markup."""
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
