"""The zooms of a trace: what each call meant, and whether the crop behind it shows that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from PIL import Image

from environments.protocol import parse_actions
from environments.traces import Trace, blocks_of
from fovea.answers.boxes import is_four_numbers
from fovea.boxes import Box, Frame, View
from fovea.episodes import Call
from fovea.images import PixelLimits, cut, fit

UNLIKE = 0.1
"""A crop whose correlation with what is under its box is below this shows something else. A crop of the original and a
view of 128 pixels reach 0.17."""
_COMPARED_PX = 32
MAX_ZOOMS = 2000
"""Zooms by which a file is judged: more do not make the median surer."""


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


class FrameEvidence:
    """How far crops are from what is under their boxes, for each frame and each padding that they may have."""

    def __init__(
        self, limits: PixelLimits, *, frames: Sequence[Frame] = tuple(Frame), paddings: Sequence[float]
    ) -> None:
        self._limits = limits
        self._readings = [(frame, padding) for frame in frames for padding in dict.fromkeys(paddings)]
        self._apart: dict[tuple[Frame, float], list[float]] = defaultdict(list)
        self.num_zooms = 0

    def add(self, trace: Trace) -> None:
        """Takes the zooms of a trace into account."""
        for zoom in zooms_in(trace):
            if self.num_zooms == MAX_ZOOMS:
                return
            self.num_zooms += 1
            view = View(zoom.source.size, fit(zoom.source, self._limits).size)
            for frame, padding in self._readings:
                apart = difference(zoom.source, Box.of(zoom.numbers, frame), view, zoom.crop, padding)
                self._apart[frame, padding].append(apart)

    def typical(self) -> dict[tuple[Frame, float], float]:
        """The median difference (levels, 0 to 255) of each reading; empty without zooms."""
        return {reading: median(apart) for reading, apart in self._apart.items()}

    def best(self, preferred: Frame) -> tuple[Frame, float]:
        """The frame and the padding that give the crops best; of equal ones the preferred frame.

        Raises:
            ValueError: without zooms.
        """
        typical = self.typical()
        if not typical:
            raise ValueError("there are no crops by which frames could be told apart")
        rank = {preferred: 0, Frame.ORIGINAL: 2}
        return min(typical, key=lambda reading: (round(typical[reading], 1), rank.get(reading[0], 1)))

    def words(self) -> str:
        """The evidence of the best readings, for a message."""
        several = len({padding for _, padding in self._readings}) > 1
        ranked = sorted(self.typical().items(), key=lambda item: item[1])[:4]
        return ", ".join(
            f"{frame.value}{f' x{padding:g}' if several else ''} {value:.1f}" for (frame, padding), value in ranked
        )

    def misread(self, frame: Frame) -> tuple[Frame, str] | None:
        """The frame in which boxes are meant, with the evidence, if they give their crops in another one alone."""
        typical = {other: value for (other, _), value in self.typical().items()}
        if not typical:
            return None
        best, _ = self.best(frame)
        if best is frame or typical[best] >= 0.7 * typical[frame]:
            return None
        return best, (
            f"boxes give the crops behind them if they are read in {best.value}, and this model writes {frame.value} "
            f"(median difference of levels: {self.words()})"
        )
