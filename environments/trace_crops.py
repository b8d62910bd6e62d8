"""The zooms of a trace: what each call meant, and whether the crop behind it shows that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from environments.protocol import parse_actions
from environments.traces import Trace, blocks_of
from fovea.answers.boxes import is_four_numbers
from fovea.boxes import Box, Frame, View
from fovea.episodes import Call
from fovea.images import cut

UNLIKE = 0.1
"""A crop whose correlation with what is under its box is below this shows something else. A crop of the original and a
view of 128 pixels reach 0.17."""
_COMPARED_PX = 32


@dataclass(frozen=True)
class TracedZoom:
    """A call with the image that it means, the numbers of its box, and the crop behind it."""

    source: Image.Image
    numbers: list[float]
    crop: Image.Image


def zooms_in(trace: Trace) -> Iterator[TracedZoom]:
    """The zooms of a trace that have a box, an image and a crop."""
    shown: list[Image.Image] = []
    asked: list[Call] = []
    for message in trace.messages:
        images = [block["image"] for block in blocks_of(message["content"]) if block["type"] == "image"]
        if message["role"] == "assistant":
            actions = parse_actions("".join(block["text"] for block in blocks_of(message["content"])))
            asked = [action for action in actions if isinstance(action, Call)]
        for crop in images if message["role"] == "tool" else ():
            call = asked.pop(0) if asked else Call("", {})
            numbers, index = call.arguments.get("bbox_2d"), call.arguments.get("img_idx", 0)
            if is_four_numbers(numbers) and isinstance(index, int) and 0 <= index < len(shown):
                yield TracedZoom(shown[index], list(numbers or ()), crop)
        shown += images


def difference(source: Image.Image, box: Box, view: View, crop: Image.Image, padding: float) -> float:
    """Mean difference of levels (0 to 255) between a crop and what is under the box; 255 if nothing is."""
    inside = box.to(Frame.UNIT, view).enlarged(padding).clipped(view)
    if inside.is_empty:
        return 255.0
    return float(np.abs(_small(cut(source, inside)) - _small(crop)).mean())


def likeness(first: Image.Image, second: Image.Image) -> float:
    """Correlation of the levels of two pictures, made small: 1 for the same, about 0 for others; 1 if one is plain."""
    levels = [_small(image).mean(axis=2).ravel() for image in (first, second)]
    if min(values.std() for values in levels) < 2:
        return 1.0
    return float(np.corrcoef(*levels)[0, 1])


def _small(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((_COMPARED_PX, _COMPARED_PX), Image.Resampling.BOX), dtype=float)
