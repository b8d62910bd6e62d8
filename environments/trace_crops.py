"""The zooms of a trace: what each call meant, and whether the crop behind it shows that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from PIL import Image

from environments.focus import images_asked_for
from environments.protocol import parse_actions
from environments.traces import Trace, images_of, text_of
from fovea.answers.boxes import is_four_numbers
from fovea.boxes import WHOLE, Box, Frame, View
from fovea.episodes import Call
from fovea.images import PixelLimits, fit

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
        images = images_of([message])
        if message["role"] == "assistant":
            actions = parse_actions(text_of(message))
            asked = [action for action in actions if isinstance(action, Call)]
        if message["role"] != "tool":
            shown += images
            continue
        pictures = iter(images)
        for crop in pictures:
            call = asked.pop(0) if asked else Call("", {})
            if focused := images_asked_for(call):
                for index, view in zip(focused, chain([crop], pictures), strict=False):
                    shown[index : index + 1] = [view]
                continue
            numbers, index = call.arguments.get("bbox_2d"), call.arguments.get("img_idx", 0)
            if is_four_numbers(numbers) and isinstance(index, int) and 0 <= index < len(shown):
                yield TracedZoom(shown[index], list(numbers or ()), crop)
            shown.append(crop)


def difference(source: Image.Image, box: Box, view: View, crop: Image.Image, padding: float) -> float:
    """Mean difference of levels (0 to 255) between a crop and what is under the box; 255 if nothing is."""
    inside = box.to(Frame.UNIT, view).enlarged(padding).clipped(view)
    if inside.is_empty:
        return 255.0
    under, shown = _both(source, inside, crop)
    return float(np.abs(under - shown).mean())


def likeness(source: Image.Image, crop: Image.Image, region: Box = WHOLE) -> float:
    """Correlation of the levels of a crop and of what is under a UNIT box: 1 for the same, about 0 for others.

    It is 1 where nothing can be told: if one of them is plain, or the region has hardly any pixels.
    """
    under, shown = (levels.mean(axis=2).ravel() for levels in _both(source, region, crop))
    if under.size < 8 or min(under.std(), shown.std()) < 2:
        return 1.0
    return float(np.corrcoef(under, shown)[0, 1])


def _both(source: Image.Image, region: Box, crop: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The levels [height, width, 3] of what is under a UNIT box, and of a crop, at half the coarser resolution.

    What a small view does not show of a sharp crop is no difference between them.
    """
    x1, y1, x2, y2 = region.coordinates
    under = (x1 * source.width, y1 * source.height, x2 * source.width, y2 * source.height)
    extents = zip((under[2] - under[0], under[3] - under[1]), crop.size, strict=True)
    width, height = (max(1, min(_COMPARED_PX, round(extent / 2), pixels)) for extent, pixels in extents)
    pictures = (
        image.convert("RGB").resize((width, height), Image.Resampling.BOX, box=box)
        for image, box in ((source, under), (crop, None))
    )
    first, second = (np.asarray(picture, dtype=float) for picture in pictures)
    return first, second


Reading = tuple[Frame, float]
"""A frame in which boxes may be meant, and by what their tool enlarged them."""
NEAR = 2.0
"""Levels within which a reading fits a crop as well as the best one."""
LEAST_APART = 10.0
"""Levels that places elsewhere are taken to differ at least, as in plain pictures they do not."""
CLEAR = 0.5
"""A reading is clear if its crops are at most half as far off as places elsewhere in the images."""


class FrameEvidence:
    """Distances of crops from the image regions under their boxes, for each possible frame and padding."""

    def __init__(
        self, limits: PixelLimits, *, frames: Sequence[Frame] = tuple(Frame), paddings: Sequence[float]
    ) -> None:
        self._limits = limits
        self.readings: list[Reading] = [(frame, padding) for frame in frames for padding in dict.fromkeys(paddings)]
        self._rows: list[np.ndarray] = []

    @property
    def num_zooms(self) -> int:
        return len(self._rows)

    def add(self, trace: Trace) -> None:
        """Takes the zooms of a trace into account."""
        if self.num_zooms < MAX_ZOOMS:
            self._rows += self.measured(trace)

    def measured(self, trace: Trace) -> list[np.ndarray]:
        """For each zoom of a trace the differences by reading [readings], and last that to a place elsewhere."""
        return [self._measured(zoom) for zoom in zooms_in(trace)]

    def _measured(self, zoom: TracedZoom) -> np.ndarray:
        view = View(zoom.source.size, fit(zoom.source, self._limits).size)
        apart = [
            difference(zoom.source, Box.of(zoom.numbers, frame), view, zoom.crop, padding)
            for frame, padding in self.readings
        ]
        frame, _ = self.readings[int(np.argmin(apart))]
        box = Box.of(zoom.numbers, frame).to(Frame.UNIT, view)
        elsewhere = WHOLE
        if 0 < box.width < 1 and 0 < box.height < 1:
            left, top = (box.x1 + 0.5) % 1.0 * (1 - box.width), (box.y1 + 0.5) % 1.0 * (1 - box.height)
            elsewhere = Box(left, top, left + box.width, top + box.height, Frame.UNIT)
        return np.array([*apart, max(LEAST_APART, difference(zoom.source, elsewhere, view, zoom.crop, 1.0))])

    def typical(self) -> dict[Reading, float]:
        """The median difference (levels, 0 to 255) of each reading; empty without zooms."""
        return dict(zip(self.readings, np.median(self._rows, axis=0), strict=False)) if self._rows else {}

    def best(self, preferred: Frame) -> Reading | None:
        """The reading that fits most zooms as well as any other; None if it is hardly better than places elsewhere.

        Of equal ones it is the one with the smaller median, then the preferred frame.
        """
        if not self._rows:
            return None
        rows, typical = np.array(self._rows), self.typical()
        fits = (rows[:, :-1] <= rows[:, :-1].min(axis=1, keepdims=True) + NEAR).sum(axis=0)
        votes = dict(zip(self.readings, fits, strict=True))
        rank = {preferred: 0, Frame.ORIGINAL: 2}  # images that were never resized are INPUT as well
        best = min(self.readings, key=lambda one: (-votes[one], round(typical[one], 1), rank.get(one[0], 1)))
        is_clear = np.median(rows[:, self.readings.index(best)]) <= CLEAR * np.median(rows[:, -1])
        return best if is_clear else None

    def reading_of(self, trace: Trace, usual: Reading) -> Reading | None:
        """The reading of one trace: the usual one, or another one that its crops clearly show; None if none fits."""
        rows = self.measured(trace)
        if not rows:
            return usual
        *apart, elsewhere = np.mean(rows, axis=0)
        if apart[self.readings.index(usual)] <= 1.25 * min(apart) + NEAR:
            return usual
        return self.readings[int(np.argmin(apart))] if min(apart) <= CLEAR * elsewhere else None

    def words(self) -> str:
        """The evidence of the best readings, for a message."""
        several = len({padding for _, padding in self.readings}) > 1
        ranked = sorted(self.typical().items(), key=lambda item: item[1])[:4]
        return ", ".join(
            f"{frame.value}{f' x{padding:g}' if several else ''} {value:.1f}" for (frame, padding), value in ranked
        )

    def misread(self, frame: Frame) -> tuple[Frame, str] | None:
        """The frame in which boxes are meant, with the evidence, if they give their crops in another one alone."""
        reading, typical = self.best(frame), self.typical()
        in_frame = min((value for (other, _), value in typical.items() if other is frame), default=255.0)
        if reading is None or reading[0] is frame or typical[reading] >= 0.7 * in_frame:
            return None
        return reading[0], (
            f"boxes give the crops behind them if they are read in {reading[0].value}, and this model writes "
            f"{frame.value} (median difference of levels: {self.words()})"
        )
