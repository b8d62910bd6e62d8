"""Roles of the visual agent played by an OCR library, for questions like "Which word comes right after 'two'?".

`fovea traces agent --dataset_name tasks.jsonl --locate examples/roles_ocr.py:locate --look examples/roles_ocr.py:look
--output_dir DIR`, after `pip install "fovea[ocr]"`. The library carries its models.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from fovea.boxes import Box, Frame, View
from fovea.images import cut

ASKED = re.compile(r"right after ['\"‘“](.+?)['\"’”]")
MIN_HEIGHT_PX = 600
"""Smaller pictures are enlarged before they are read."""


@cache
def _reader() -> Any:
    try:
        from rapidocr_onnxruntime import RapidOCR
    except ImportError as error:
        raise ImportError('the OCR roles need a library: pip install "fovea[ocr]"') from error
    return RapidOCR()


def lines_of(image: Image.Image) -> list[tuple[str, list[float]]]:
    """The lines of text in a picture, each with its box in pixels of the picture."""
    scale = max(1.0, MIN_HEIGHT_PX / image.height)
    enlarged = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    found, _ = _reader()(np.asarray(enlarged.convert("RGB")))
    lines = []
    for corners, text, _ in found or ():
        xs, ys = zip(*corners, strict=True)
        lines.append((text, [value / scale for value in (min(xs), min(ys), max(xs), max(ys))]))
    return lines


def locate(original: Image.Image, region: Box, target: str) -> Box | None:
    """A box around the line that holds the word which the question names, read at full size."""
    match = ASKED.search(target)
    if match is None:
        return None
    for text, (x1, y1, x2, y2) in lines_of(cut(original, region)):
        if _place(_words(text), match[1]) is not None:
            size = cut(original, region).size
            line = Box(x1, y1, x2, y2, Frame.ORIGINAL).to(Frame.UNIT, View(size, size))
            grown = Box(line.x1, line.y1 - line.height, line.x2, line.y2 + line.height, Frame.UNIT)
            return grown.clipped(View((1, 1), (1, 1)))
    return None


def look(image: Image.Image, question: str) -> str:
    """The word after the one that is asked about, as far as it can be read in what is shown."""
    match = ASKED.search(question)
    for text, _ in lines_of(image) if match else ():
        words = _words(text)
        place = _place(words, match[1]) if match else None
        if place is not None and place + 1 < len(words):
            return words[place + 1]
    return "I cannot read it."


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text)


def _place(words: list[str], word: str) -> int | None:
    lowered = [one.lower() for one in words]
    return lowered.index(word.lower()) if word.lower() in lowered else None
