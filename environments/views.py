"""First views of images within a budget of tokens, and the frame in which boxes are written.

An environment has the shape that TRL's `environment_factory` expects: `reset(**row)` gives the content of the first
user message, every other public method is a tool. In TRL's own loop and in ours a tool that finds the model at fault
raises `ModelFault`; anything else that is raised is a bug, and in our loop it stops the run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from environments.prompts import VIEWS_PROMPT
from fovea.boxes import WHOLE, Box, Frame, Framing, Size, View
from fovea.image_budget import within_budget
from fovea.image_store import ImageStore
from fovea.images import PixelLimits
from fovea.placeholders import MARK
from fovea.tasks import AnswerKind, Task

CROP_MODES = ("true", "noise", "blank", "random", "other", "target")
VIEW_MODES = ("true", "blurred", "blank")
BLUR_SHARE = 0.05
"""Standard deviation of the blur of a blurred first view, as a share of its longer side."""


@dataclass(frozen=True)
class ViewSettings:
    """Settings of an environment that shows images and cuts crops.

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
class Seen:
    """One image of the episode: which part of which original it shows, and its size for the model."""

    root: int
    region: Box
    view: View


class ViewEnvironment:
    """One episode at a time; `reset` clears everything. A `store` shared by environments opens each image once.

    Originals are held by the store alone, so that its bound holds however many episodes are under way. There are no
    tools: the environments that have some are made of this one.
    """

    system_prompt = VIEWS_PROMPT

    def __init__(self, settings: ViewSettings, store: ImageStore | None = None) -> None:
        self._settings = settings
        self._store = store or ImageStore()
        self._seen: list[Seen] = []
        self._task = Task("", (), "", None)

    def reset(self, *, task: Task | None = None, **row: Any) -> list[dict[str, Any]]:
        """The content of the first user message: every image's first view, and the question around them.

        TRL's own loop knows no `task`: there the columns `images`, `question` and `first_view_max_pixels` make one.
        """
        self._task = task or Task.of_row(row)
        self._seen = []
        views = [self._first_view(root, limits) for root, limits in enumerate(self._view_limits())]
        question = self._task.prompt
        if self._names_frame:
            question = f"{question}\n{self._describe_frame()}"
        texts = [{"type": "text", "text": text} for text in question.split(MARK)]
        if len(texts) - 1 != len(views):
            return [*views, {"type": "text", "text": question.replace(MARK, "")}]
        between = [block for pair in zip(texts, views, strict=False) for block in pair]
        return [block for block in (*between, texts[-1]) if block.get("text") != ""]

    def _full_limits(self) -> PixelLimits:
        """The limits of a view that stands alone; at fewer pixels than the least the processor would enlarge it."""
        limits, most = self._settings.first_view, self._task.first_view_max_pixels
        if most is None:
            return limits
        return PixelLimits(limits.min_pixels, max(limits.min_pixels, min(limits.max_pixels, most)), limits.factor)

    def _budget(self) -> int | None:
        """Visual tokens that the first views may have together."""
        return self._settings.max_image_tokens

    def _view_limits(self) -> list[PixelLimits]:
        """The limits of each first view.

        Raises:
            ValueError: for more images than the budget can hold.
        """
        alike, budget = [self._full_limits()] * len(self._task.images), self._budget()
        if budget is None:
            return alike
        sizes = [self._store.open(source).size for source in self._task.images]
        return within_budget(sizes, alike, budget)

    def _first_view(self, root: int, limits: PixelLimits) -> dict[str, Any]:
        """The block of a task's image within its limits."""
        source = self._task.images[root]
        view = self._store.fitted(source, limits, self._settings.first_view)
        size = self._store.open(source).size
        self._seen.append(Seen(root, WHOLE, View(size, view.size)))
        return {"type": "image", "image": _view(view, self._settings.views), "is_shared": True}

    @property
    def _names_frame(self) -> bool:
        """True if the prompt describes the frame of boxes: if the answer is boxes, or no frame was taught."""
        return self._task.kind is AnswerKind.BOX or self._settings.names_frame

    @property
    def framing(self) -> Framing:
        """The frame in which the model writes boxes, with the views of the task's images as they are now."""
        return Framing(self._settings.frame, tuple(seen.view for seen in self._seen[: len(self._task.images)]))

    def _describe_frame(self) -> str:
        """The description of the frame of boxes; one line for each image if images differ."""
        framing = self.framing
        lines = [framing.describe(index) for index in range(max(1, len(framing.views)))]
        if len(set(lines)) == 1:
            return lines[0]
        return "\n".join(f"Image {index}: {line}" for index, line in enumerate(lines))


GREY = (127, 127, 127)


def _view(shown: Image.Image, mode: str) -> Image.Image:
    """The first view as a probe leaves it."""
    if mode == "blank":
        return Image.new("RGB", shown.size, GREY)
    return shown if mode == "true" else shown.filter(ImageFilter.GaussianBlur(BLUR_SHARE * max(shown.size)))


def nothing_to_see(mode: str, size: Size, rng: np.random.Generator) -> Image.Image | None:
    """A grey or noisy image (width, height) for probes that hide the image; None in another mode."""
    if mode == "blank":
        return Image.new("RGB", size, GREY)
    if mode == "noise":
        return Image.fromarray(rng.integers(0, 256, size=(size[1], size[0], 3), dtype=np.uint8))
    return None


def other_image(task: Task) -> Any:
    """The image of another task that a probe shows in place of this one's."""
    other = task.metadata.get("other_image")
    if other is None:
        raise ValueError(
            "crops of another image need it in each task's metadata: environments.probes.other_images.with_others puts "
            "it there"
        )
    return other
