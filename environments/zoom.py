"""The zoom environment: the first view of each image, and a tool that cuts closer views out of the original.

It has the shape that TRL's `environment_factory` expects: `reset(**row)` gives the content of the first user message,
every other public method is a tool. In TRL's own loop and in ours a tool that finds the model at fault raises
`ModelFault`; anything else that is raised is a bug, and in our loop it stops the run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from fovea.answers.boxes import is_finite
from fovea.boxes import WHOLE, Box, Frame, Framing, View
from fovea.episodes import Crop, FaultKind, ModelFault
from fovea.image_budget import within_budget
from fovea.images import MAX_ASPECT_RATIO, ImageStore, PixelLimits, cut, fit
from fovea.placeholders import MARK
from fovea.tasks import AnswerKind, Task

CROP_MODES = ("true", "noise", "blank", "random", "other", "target")
VIEW_MODES = ("true", "blurred", "blank")
BLUR_SHARE = 0.05
"""Standard deviation of the blur of a blurred first view, as a share of its longer side."""


@dataclass(frozen=True)
class ZoomSettings:
    """How the zoom environment shows images and cuts crops.

    `frame` is the frame in which the model writes boxes. `padding` enlarges each box about its centre (1.5 in
    Chain-of-Focus). Boxes with a side below `min_side` (UNIT of the image they are in) are refused.

    Probes of whether the model looks: `crops` other than "true" replaces what a zoom returns by noise, a blank, a
    random place of the same size in the same image, the same place of another task's image (`metadata["other_image"]`),
    or the nearest of the task's own boxes, which shows what a perfect zoom is worth. `views` other than "true" blurs or
    blanks the first views, which leaves only zooms to see by. `names_frame` tells the model in every question how boxes
    are written, as questions that ask for boxes always do: for models that were taught no frame. `max_image_tokens` is
    what the first views of a task may have together in visual tokens; they shrink evenly to it.
    """

    frame: Frame
    first_view: PixelLimits
    crop: PixelLimits
    padding: float = 1.0
    min_side: float = 0.004
    crops: str = "true"
    views: str = "true"
    names_frame: bool = False
    max_image_tokens: int | None = None

    def __post_init__(self) -> None:
        for name, modes in (("crops", CROP_MODES), ("views", VIEW_MODES)):
            if getattr(self, name) not in modes:
                raise ValueError(f"{name} {getattr(self, name)!r} is unknown: use one of {modes}")
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
        self._seen: list[_Seen] = []
        self._task = Task("", (), "", None)

    def reset(self, *, task: Task | None = None, **row: Any) -> list[dict[str, Any]]:
        """The content of the first user message: every image's first view, and the question around them.

        TRL's own loop knows no `task`: there the columns `images`, `question` and `first_view_max_pixels` make one.
        """
        self._task = task or Task.of_row(row)
        self._seen = []
        limits = self._view_limits()
        views = [self._first_view(root, limit) for root, limit in enumerate(limits)]
        question = self._task.prompt
        if self._task.kind is AnswerKind.BOX or self._settings.names_frame:
            question = f"{question}\n{self._describe_frame()}"
        texts = [{"type": "text", "text": text} for text in question.split(MARK)]
        if len(texts) - 1 != len(views):
            return [*views, {"type": "text", "text": question.replace(MARK, "")}]
        between = [block for pair in zip(texts, views, strict=False) for block in pair]
        return [block for block in (*between, texts[-1]) if block.get("text") != ""]

    def _view_limits(self) -> list[PixelLimits]:
        """The limits of each first view; at fewer pixels than the least the processor would enlarge it again.

        Raises:
            ValueError: for more images than `max_image_tokens` can hold.
        """
        limits, most = self._settings.first_view, self._task.first_view_max_pixels
        if most is not None:
            most = max(limits.min_pixels, min(limits.max_pixels, most))
            limits = PixelLimits(limits.min_pixels, most, limits.factor)
        alike = [limits] * len(self._task.images)
        if self._settings.max_image_tokens is None:
            return alike
        sizes = [self._store.open(source).size for source in self._task.images]
        return within_budget(sizes, alike, self._settings.max_image_tokens)

    def _first_view(self, root: int, limits: PixelLimits) -> dict[str, Any]:
        """The block of a task's image within its limits."""
        source = self._task.images[root]
        view = self._store.fitted(source, limits, self._settings.first_view)
        size = self._store.open(source).size
        self._seen.append(_Seen(root, WHOLE, View(size, view.size)))
        return {"type": "image", "image": _view(view, self._settings.views)}

    @property
    def framing(self) -> Framing:
        """The frame in which the model writes boxes, with the first views of the episode's images."""
        return Framing(self._settings.frame, tuple(seen.view for seen in self._seen[: len(self._task.images)]))

    def _describe_frame(self) -> str:
        """How boxes are to be written; where images differ, for each of them."""
        framing = self.framing
        lines = [framing.describe(index) for index in range(max(1, len(framing.views)))]
        if len(set(lines)) == 1:
            return lines[0]
        return "\n".join(f"Image {index}: {line}" for index, line in enumerate(lines))

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
        self._seen.append(_Seen(seen.root, region, View(native.size, crop.size)))
        shown = self._shown(crop, original, region, seen.root)
        return {"type": "image", "image": shown, "crop": Crop(index, seen.root, region, crop.size)}

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
        """What the model gets to see in place of `crop`; seeded by the region, so that a replay is the same."""
        mode, size = self._settings.crops, crop.size
        if mode == "true":
            return crop
        if mode == "blank":
            return Image.new("RGB", size, _GREY)
        rng = np.random.default_rng(abs(hash((region.coordinates, size))))
        if mode == "noise":
            return Image.fromarray(rng.integers(0, 256, size=(size[1], size[0], 3), dtype=np.uint8))
        if mode == "random":
            x1, y1 = rng.uniform(0, 1 - region.width), rng.uniform(0, 1 - region.height)
            region = Box(x1, y1, x1 + region.width, y1 + region.height, Frame.UNIT)
        elif mode == "other":
            original = self._store.open(_other_image(self._task))
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


_GREY = (127, 127, 127)


def _view(shown: Image.Image, mode: str) -> Image.Image:
    """The first view as a probe leaves it."""
    if mode == "blank":
        return Image.new("RGB", shown.size, _GREY)
    return shown if mode == "true" else shown.filter(ImageFilter.GaussianBlur(BLUR_SHARE * max(shown.size)))


def _other_image(task: Task) -> Any:
    other = task.metadata.get("other_image")
    if other is None:
        raise ValueError(
            "crops of another image need it in each task's metadata: environments.probes.other_images.with_others puts "
            "it there"
        )
    return other


def _centre(box: Box) -> tuple[float, float]:
    return (box.x1 + box.x2) / 2, (box.y1 + box.y2) / 2
