"""The zoom environment: the first view of each image, and a tool that cuts closer views out of the original."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from PIL import Image

from environments.prompts import SYSTEM_PROMPT
from environments.views import Seen, ViewEnvironment, nothing_to_see, other_image
from fovea.answers.boxes import is_finite
from fovea.boxes import Box, Frame, View
from fovea.episodes import Crop, FaultKind, ModelFault
from fovea.images import MAX_ASPECT_RATIO, cut, fit


class ZoomEnvironment(ViewEnvironment):
    """First views, and a tool that zooms into any image that was seen, closer views included."""

    system_prompt = SYSTEM_PROMPT

    def image_zoom_in_tool(self, bbox_2d: list[float], label: str = "", img_idx: int = 0) -> list[dict[str, Any]]:
        """Zoom into a region of an image to see it larger.

        Args:
            bbox_2d: Region as [x1, y1, x2, y2].
            label: What is in the region.
            img_idx: Index of the image, from 0.

        Returns:
            The enlarged region.
        """
        crop = self._zoom(bbox_2d, img_idx)
        return [crop, {"type": "text", "text": f"This is image {len(self._seen) - 1}."}]

    def _zoom(self, bbox_2d: Any, img_idx: Any) -> dict[str, Any]:
        """The image block of a new crop.

        Raises:
            ModelFault: for a box or an image that the model cannot have meant.
        """
        seen = self._image(img_idx)
        written = self._box(bbox_2d, seen)
        padded = written.enlarged(self._settings.padding).clipped(seen.view)
        region = padded.within(seen.region, view=seen.view)
        original = self._store.open(self._task.images[seen.root])
        native = cut(original, region)
        if max(native.size) > MAX_ASPECT_RATIO * min(native.size):
            raise ModelFault(FaultKind.TINY_BOX, "The box is too narrow: draw it larger around the detail.")
        crop = fit(native, self._settings.crop, self._settings.first_view)
        index = len(self._seen)
        self._seen.append(Seen(seen.root, region, View(native.size, crop.size)))
        shown = self._shown(crop, original, region, seen.root)
        return {"type": "image", "image": shown, "crop": Crop(index, seen.root, region, crop.size)}

    def _image(self, img_idx: Any) -> Seen:
        """The image that the model means by `img_idx`."""
        if not self._seen:
            raise ModelFault(FaultKind.BAD_IMAGE_INDEX, "There is no image to zoom into.")
        if isinstance(img_idx, bool) or not isinstance(img_idx, int) or not 0 <= img_idx < len(self._seen):
            raise ModelFault(
                FaultKind.BAD_IMAGE_INDEX, f"img_idx must be a whole number from 0 to {len(self._seen) - 1}."
            )
        return self._seen[img_idx]

    def _box(self, bbox_2d: Any, seen: Seen) -> Box:
        """The box that the model wrote, checked and clipped to the image."""
        frame = self._settings.frame
        width, height = seen.view.extent(frame)
        form = f"bbox_2d must be [x1, y1, x2, y2] with numbers from 0 to {width:g} and 0 to {height:g}."
        is_list = isinstance(bbox_2d, (list, tuple)) and len(bbox_2d) == 4
        if not is_list or not all(map(is_finite, bbox_2d)):
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

    def _shown(self, crop: Image.Image, original: Image.Image, region: Box, root: int) -> Image.Image:
        """The image that the model sees in place of `crop`; seeded by the region, so that a replay is the same."""
        mode, size = self._settings.crops, crop.size
        if mode == "true":
            return crop
        rng = np.random.default_rng(abs(hash((region.coordinates, size))))
        if (empty := nothing_to_see(mode, size, rng)) is not None:
            return empty
        if mode == "random":
            x1, y1 = rng.uniform(0, 1 - region.width), rng.uniform(0, 1 - region.height)
            region = Box(x1, y1, x1 + region.width, y1 + region.height, Frame.UNIT)
        elif mode == "other":
            original = self._store.open(other_image(self._task))
        elif (target := self._nearest_target(region, root)) is not None:
            return fit(cut(original, target), self._settings.crop, self._settings.first_view)
        return cut(original, region).resize(size, Image.Resampling.BICUBIC)

    def _nearest_target(self, region: Box, root: int) -> Box | None:
        """The task's own box (UNIT) on this image whose centre is nearest to that of `region`; None without any."""
        targets = [target.box for target in self._task.boxes if target.img_idx == root]
        return min(targets, key=lambda box: math.dist(_centre(box), _centre(region)), default=None)


class Qwen3ZoomEnvironment(ZoomEnvironment):
    """The zoom tool as Qwen3-VL was taught it: all three arguments are required, and the answer is the image alone.

    Its crops have at least 262,144 pixels (`crop_min_pixels`).
    """

    def image_zoom_in_tool(self, bbox_2d: list[float], label: str, img_idx: int) -> list[dict[str, Any]]:  # type: ignore[override]
        """Zoom into a region of an image, given by its box, to see it larger.

        Args:
            bbox_2d: The region as [x1, y1, x2, y2], top left corner and bottom right corner.
            label: The name of the object in the region.
            img_idx: The index of the image, from 0.

        Returns:
            The enlarged region.
        """
        return [self._zoom(bbox_2d, img_idx)]


def _centre(box: Box) -> tuple[float, float]:
    return (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2
