"""Boxes that know their coordinate frame.

Boxes in the wrong space are the most repeated silent bug of zooming models, so a box here is never four bare
numbers: it carries its frame, and every conversion names the view (original size and model-input size) it goes through.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

Size = tuple[int, int]
"""Width and height of an image, in pixels."""


class Frame(StrEnum):
    """The coordinate frames in which a box can be written."""

    ORIGINAL = "original"
    """Pixels of the image as it was opened."""
    INPUT = "input"
    """Pixels of the image as the model received it, after the processor's resize (Qwen2.5-VL)."""
    UNIT = "unit"
    """Fractions of width and height, 0 to 1."""
    PER_MILLE = "per_mille"
    """Thousandths of width and height, 0 to 1000 (Qwen3-VL)."""


@dataclass(frozen=True)
class View:
    """The sizes of one image: as opened, and as the model receives it, both (width, height) in pixels."""

    original: Size
    input: Size

    def extent(self, frame: Frame) -> tuple[float, float]:
        """Width and height of the whole image, in the units of `frame`."""
        return {
            Frame.ORIGINAL: (float(self.original[0]), float(self.original[1])),
            Frame.INPUT: (float(self.input[0]), float(self.input[1])),
            Frame.UNIT: (1.0, 1.0),
            Frame.PER_MILLE: (1000.0, 1000.0),
        }[frame]


@dataclass(frozen=True)
class Box:
    """A rectangle from (x1, y1), top left, to (x2, y2), bottom right, in the units of `frame`."""

    x1: float
    y1: float
    x2: float
    y2: float
    frame: Frame

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) for value in self.coordinates):
            raise ValueError(
                f"box {self.coordinates} has a coordinate that is not a finite number: give four finite numbers"
            )

    @classmethod
    def of(cls, numbers: Iterable[float], frame: Frame) -> Box:
        """The box of four numbers x1, y1, x2, y2 in the units of `frame`."""
        x1, y1, x2, y2 = (float(number) for number in numbers)
        return cls(x1, y1, x2, y2, frame)

    @property
    def coordinates(self) -> tuple[float, float, float, float]:
        """(x1, y1, x2, y2) in the units of `frame`."""
        return (self.x1, self.y1, self.x2, self.y2)

    @property
    def width(self) -> float:
        return self.x2 - self.x1

    @property
    def height(self) -> float:
        return self.y2 - self.y1

    @property
    def area(self) -> float:
        """Area in squared units of `frame`; 0 for an empty or inverted box."""
        return max(self.width, 0.0) * max(self.height, 0.0)

    @property
    def is_empty(self) -> bool:
        """True if the box is inverted or flat, so that it holds no area."""
        return self.width <= 0 or self.height <= 0

    def to(self, frame: Frame, view: View) -> Box:
        """The same box in another frame of the same image.

        >>> view = View(original=(2000, 1000), input=(500, 250))
        >>> Box(0.1, 0.2, 0.5, 0.6, Frame.UNIT).to(Frame.ORIGINAL, view).coordinates
        (200.0, 200.0, 1000.0, 600.0)
        """
        if frame is self.frame:
            return self
        from_width, from_height = view.extent(self.frame)
        to_width, to_height = view.extent(frame)
        return Box(
            self.x1 / from_width * to_width,
            self.y1 / from_height * to_height,
            self.x2 / from_width * to_width,
            self.y2 / from_height * to_height,
            frame,
        )

    def enlarged(self, factor: float) -> Box:
        """The box scaled by `factor` about its centre."""
        pad_x, pad_y = self.width * (factor - 1) / 2, self.height * (factor - 1) / 2
        return Box(self.x1 - pad_x, self.y1 - pad_y, self.x2 + pad_x, self.y2 + pad_y, self.frame)

    def clipped(self, view: View) -> Box:
        """The part of the box inside the image; empty when nothing of it is."""
        width, height = view.extent(self.frame)
        return Box(
            min(max(self.x1, 0.0), width),
            min(max(self.y1, 0.0), height),
            min(max(self.x2, 0.0), width),
            min(max(self.y2, 0.0), height),
            self.frame,
        )

    def rounded(self) -> Box:
        """The box with whole-number coordinates."""
        return Box(round(self.x1), round(self.y1), round(self.x2), round(self.y2), self.frame)

    def relative_to(self, outer: Box) -> Box:
        """This box, in UNIT of an image, as a box in UNIT of the crop that `outer` (UNIT) cuts out of it.

        >>> Box(0.5, 0.5, 0.75, 1.0, Frame.UNIT).relative_to(Box(0.5, 0.0, 1.0, 1.0, Frame.UNIT)).coordinates
        (0.0, 0.5, 0.5, 1.0)
        """
        return Box(
            (self.x1 - outer.x1) / outer.width,
            (self.y1 - outer.y1) / outer.height,
            (self.x2 - outer.x1) / outer.width,
            (self.y2 - outer.y1) / outer.height,
            Frame.UNIT,
        )

    def within(self, outer: Box, *, view: View) -> Box:
        """This box, given in UNIT of the crop `outer` cut out, as a box in UNIT of the image that was cropped."""
        inner_box, outer_box = self.to(Frame.UNIT, view), outer.to(Frame.UNIT, view)
        return Box(
            outer_box.x1 + inner_box.x1 * outer_box.width,
            outer_box.y1 + inner_box.y1 * outer_box.height,
            outer_box.x1 + inner_box.x2 * outer_box.width,
            outer_box.y1 + inner_box.y2 * outer_box.height,
            Frame.UNIT,
        )

    def to_dict(self) -> dict[str, object]:
        return {"coordinates": list(self.coordinates), "frame": self.frame.value}

    @classmethod
    def from_dict(cls, data: dict) -> Box:
        return cls.of(data["coordinates"], Frame(data["frame"]))


UNIT_VIEW = View((1, 1), (1, 1))
"""Of an image whose size does not matter, since its boxes are in UNIT or PER_MILLE."""
WHOLE = Box(0.0, 0.0, 1.0, 1.0, Frame.UNIT)
"""A whole image."""


@dataclass(frozen=True)
class Framing:
    """The frame in which a model writes boxes, with the views of a task's images, by which they are read."""

    frame: Frame
    views: tuple[View, ...] = ()

    def view(self, image: int) -> View:
        """The view of an image; relative frames need none.

        Raises:
            ValueError: for a frame in pixels and an image whose view is not known.
        """
        if image < len(self.views):
            return self.views[image]
        if self.frame in (Frame.UNIT, Frame.PER_MILLE):
            return UNIT_VIEW
        raise ValueError(
            f"boxes of image {image} in {self.frame.value} pixels need the view of that image, and {len(self.views)} "
            "are known: give a View for each image"
        )

    def read(self, numbers: Iterable[float], image: int = 0) -> Box:
        """Four numbers that a model wrote, as a box in UNIT."""
        return Box.of(numbers, self.frame).to(Frame.UNIT, self.view(image))

    def write(self, box: Box, image: int = 0) -> list[float]:
        """A box as a model would write it: in whole numbers, but for UNIT."""
        numbers = box.to(self.frame, self.view(image)).coordinates
        return [round(number, 6) if self.frame is Frame.UNIT else round(number) for number in numbers]

    def describe(self, image: int = 0) -> str:
        """Instructions for a prompt: how to write boxes."""
        width, height = self.view(image).extent(self.frame)
        sides = f"from 0 to {width:g}" if width == height else f"x from 0 to {width:g} and y from 0 to {height:g}"
        return f"Write boxes as [x1, y1, x2, y2] with {'numbers ' if width == height else ''}{sides}."

    def to_dict(self) -> dict[str, object]:
        return {"frame": self.frame.value, "views": [[list(view.original), list(view.input)] for view in self.views]}

    @classmethod
    def from_dict(cls, data: dict) -> Framing:
        views = tuple(View(tuple(original_size), tuple(input_size)) for original_size, input_size in data["views"])
        return cls(Frame(data["frame"]), views)


def _same_frame(a: Box, b: Box) -> None:
    if a.frame is not b.frame:
        raise ValueError(
            f"boxes in frames {a.frame.value} and {b.frame.value} cannot be compared: convert one with .to()"
        )


def intersection(a: Box, b: Box) -> float:
    """Area shared by two boxes of the same frame."""
    _same_frame(a, b)
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    return max(width, 0.0) * max(height, 0.0)


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes of the same frame, 0 to 1."""
    shared_area = intersection(a, b)
    union_area = a.area + b.area - shared_area
    return shared_area / union_area if union_area > 0 else 0.0


def coverage(target: Box, box: Box) -> float:
    """Share of `target` that lies inside `box`, 0 to 1."""
    return intersection(target, box) / target.area if target.area > 0 else 0.0
