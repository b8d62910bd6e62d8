"""The zoom environment: the first view of each image, and a tool that cuts closer views out of the original.

It has the shape that TRL's `environment_factory` expects: `reset(**row)` gives the content of the first user message,
every other public method is a tool. In TRL's own loop and in ours a tool that finds the model at fault raises
`ModelFault`; anything else that is raised is a bug, and in our loop it stops the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from fovea.boxes import Box, Frame, View
from fovea.episodes import Crop, FaultKind, ModelFault
from fovea.images import MAX_ASPECT_RATIO, ImageStore, PixelLimits, cut, fit

CROP_MODES = ("true", "noise", "blank", "other")


@dataclass(frozen=True)
class ZoomSettings:
    """How the zoom environment shows images and cuts crops.

    `frame` is the frame in which the model writes boxes. `padding` enlarges each box about its centre (1.5 in
    Chain-of-Focus). Boxes with a side below `min_side` (UNIT of the image they are in) are refused. `crops` other
    than "true" replaces what the zoom returns by noise, a blank, or a crop of another place: a probe of whether the
    model looks.
    """

    frame: Frame
    first_view: PixelLimits
    crop: PixelLimits
    padding: float = 1.0
    min_side: float = 0.004
    crops: str = "true"

    def __post_init__(self) -> None:
        if self.crops not in CROP_MODES:
            raise ValueError(f"crops {self.crops!r} is unknown: use one of {CROP_MODES}")
        if self.padding < 1:
            raise ValueError(f"padding {self.padding} would shrink boxes: use 1 or more")


@dataclass(frozen=True)
class _Seen:
    """One image of the episode: which part of which original it shows, and its size for the model."""

    root: int
    region: Box
    view: View


class ZoomEnvironment:
    """One episode at a time; `reset` clears everything. A `store` shared by environments opens each image once.

    Originals are held by the store alone, so that its bound holds however many episodes are under way.
    """

    def __init__(self, settings: ZoomSettings, store: ImageStore | None = None) -> None:
        self._settings = settings
        self._store = store or ImageStore()
        self._sources: list[Any] = []
        self._seen: list[_Seen] = []

    def reset(
        self, *, images: Sequence[Any], question: str, first_view_max_pixels: int | None = None, **_: Any
    ) -> list[dict[str, Any]]:
        """The content of the first user message: every image's first view, then the question."""
        self._sources, self._seen = list(images), []
        limits = self._settings.first_view
        if first_view_max_pixels is not None:
            limits = PixelLimits(
                min(limits.min_pixels, first_view_max_pixels),
                min(limits.max_pixels, first_view_max_pixels),
                limits.factor,
            )
        blocks: list[dict[str, Any]] = []
        for root, source in enumerate(images):
            original, shown = self._store.open(source), self._store.fitted(source, limits)
            self._seen.append(_Seen(root, Box(0, 0, 1, 1, Frame.UNIT), View(original.size, shown.size)))
            blocks.append({"type": "image", "image": shown})
        return [*blocks, {"type": "text", "text": question}]

    def image_zoom_in_tool(self, bbox_2d: list[float], label: str = "", img_idx: int = 0) -> list[dict[str, Any]]:
        """Zoom into a region of an image to see it larger.

        Args:
            bbox_2d: Region as [x1, y1, x2, y2].
            label: What is in the region.
            img_idx: Index of the image, from 0.

        Returns:
            The enlarged region.
        """
        seen = self._image(img_idx)
        written = self._box(bbox_2d, seen)
        padded = written.enlarged(self._settings.padding).clipped(seen.view)
        region = padded.within(seen.region, view=seen.view)
        original = self._store.open(self._sources[seen.root])
        native = cut(original, region)
        if max(native.size) > MAX_ASPECT_RATIO * min(native.size):
            raise ModelFault(FaultKind.TINY_BOX, "The box is too narrow: draw it larger around the detail.")
        crop = fit(native, self._settings.crop)
        index = len(self._seen)
        pixels = region.to(Frame.ORIGINAL, View(original.size, original.size))
        size = (max(1, round(pixels.width)), max(1, round(pixels.height)))
        self._seen.append(_Seen(seen.root, region, View(size, crop.size)))
        return [
            {
                "type": "image",
                "image": self._shown(crop, original, region),
                "crop": Crop(index, seen.root, region, crop.size),
            },
            {"type": "text", "text": f"This is image {index}."},
        ]

    def _image(self, img_idx: Any) -> _Seen:
        """The image that the model means by `img_idx`."""
        if isinstance(img_idx, bool) or not isinstance(img_idx, int) or not 0 <= img_idx < len(self._seen):
            raise ModelFault(
                FaultKind.BAD_IMAGE_INDEX, f"img_idx must be a whole number from 0 to {len(self._seen) - 1}."
            )
        return self._seen[img_idx]

    def _box(self, bbox_2d: Any, seen: _Seen) -> Box:
        """The box that the model wrote, checked and clipped to the image."""
        frame = self._settings.frame
        width, height = seen.view.extent(frame)
        form = f"bbox_2d must be [x1, y1, x2, y2] with numbers from 0 to {width:g} and 0 to {height:g}."
        is_list = isinstance(bbox_2d, (list, tuple)) and len(bbox_2d) == 4
        if not is_list or not all(_is_number(value) for value in bbox_2d):
            raise ModelFault(FaultKind.BAD_BOX, form)
        box = Box.of(bbox_2d, frame)
        if box.is_empty:
            raise ModelFault(FaultKind.EMPTY_BOX, "The box is empty: x1 must be below x2 and y1 below y2.")
        box = box.clipped(seen.view)
        if box.is_empty:
            raise ModelFault(FaultKind.OUTSIDE_BOX, f"The box lies outside the image. {form}")
        unit = box.to(Frame.UNIT, seen.view)
        if min(unit.width, unit.height) < self._settings.min_side:
            raise ModelFault(FaultKind.TINY_BOX, "The box is too small: draw it larger around the detail.")
        return box

    def _shown(self, crop: Image.Image, original: Image.Image, region: Box) -> Image.Image:
        """What the model gets to see in place of `crop`; seeded by the region, so that a replay is the same."""
        mode = self._settings.crops
        if mode == "true":
            return crop
        if mode == "blank":
            return Image.new("RGB", crop.size, (127, 127, 127))
        rng = np.random.default_rng(abs(hash((region.coordinates, crop.size))))
        if mode == "noise":
            return Image.fromarray(rng.integers(0, 256, size=(crop.height, crop.width, 3), dtype=np.uint8))
        x1, y1 = rng.uniform(0, 1 - region.width), rng.uniform(0, 1 - region.height)
        elsewhere = Box(x1, y1, x1 + region.width, y1 + region.height, Frame.UNIT)
        return cut(original, elsewhere).resize(crop.size, Image.Resampling.BICUBIC)


def _is_number(value: Any) -> bool:
    """Whether a JSON value is a finite number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False
