"""Several images by the chain of Focus-Centric Visual Chain (arXiv 2504.20199): as an environment, and as one text.

In the focus environment all images are shown small, within a budget of visual tokens; a tool brings some of them back
at full size for a sub-question, and zooming works as elsewhere. In the chain environment, which is the paper's, the
model sees all images at once and writes the chain of `fovea.chains` into its thoughts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from environments.prompts import CHAIN_PROMPT, FOCUS_PROMPT
from environments.views import Seen, ViewEnvironment, nothing_to_see, other_image
from environments.zoom import ZoomEnvironment
from fovea.boxes import WHOLE, View
from fovea.episodes import Call, FaultKind, Focus, ModelFault
from fovea.placeholders import IMAGE_LABEL, label_images
from fovea.tasks import Task

FOCUS_TOOL = "focus_images_tool"
OVERVIEW_TOKENS = 2048
"""Visual tokens of all first views together, where `max_image_tokens` does not say otherwise."""


class NumberedEnvironment(ViewEnvironment):
    """Views behind their numbers, wherever in the question they stand."""

    def reset(self, *, task: Task | None = None, **row: Any) -> list[dict[str, Any]]:
        """The content of the first user message: each image behind its number, and the question around them."""
        task = task or Task.of_row(row)
        return super().reset(task=replace(task, question=label_images(task.question, len(task.images))))


class FocusEnvironment(NumberedEnvironment, ZoomEnvironment):
    """Small views of all images, a tool that brings some back at full size, and the zoom.

    An image that was focused keeps its number, and boxes in it are those of its larger view from then on.
    """

    system_prompt = FOCUS_PROMPT

    def focus_images_tool(self, question: str, img_idxs: list[int], answer: str = "") -> list[dict[str, Any]]:
        """See some of the images at full size.

        Args:
            question: The sub-question.
            img_idxs: Indices of the images, from 0: the fewest that the sub-question needs.
            answer: What the sub-question before was answered with.

        Returns:
            The images.
        """
        roots = self._roots(img_idxs)
        focus = Focus(roots, _text(question, "question"), _text(answer, "answer"))
        blocks: list[dict[str, Any]] = []
        for root in roots:
            label = f"\n{IMAGE_LABEL}" if blocks else IMAGE_LABEL
            blocks.append({"type": "text", "text": label.format(root)})
            blocks.append({"type": "image", "image": self._brought_back(root)})
            if self._names_frame:
                blocks.append({"type": "text", "text": f"\n{self.framing.describe(root)}"})
        blocks[0]["focus"] = focus
        return blocks

    def _budget(self) -> int:
        limits = self._settings.first_view
        least = len(self._task.images) * -(-limits.min_pixels // limits.factor**2)
        return super()._budget() or max(OVERVIEW_TOKENS, least)

    def _roots(self, img_idxs: Any) -> tuple[int, ...]:
        """The images of the task that the model means.

        Raises:
            ModelFault: for anything but different numbers of them.
        """
        number = len(self._task.images)
        is_list = isinstance(img_idxs, (list, tuple)) and 0 < len(img_idxs) <= number
        if not is_list or not all(type(index) is int and 0 <= index < number for index in img_idxs):
            form = f"img_idxs must be a list of one or more whole numbers from 0 to {number - 1}."
            raise ModelFault(FaultKind.BAD_IMAGE_INDEX, form if number else "There are no images to focus on.")
        if len(set(img_idxs)) < len(img_idxs):
            raise ModelFault(FaultKind.BAD_IMAGE_INDEX, "img_idxs names an image twice.")
        return tuple(img_idxs)

    def _brought_back(self, root: int) -> Image.Image:
        """The image at full size, or what a probe of crops shows in its place."""
        source, processor = self._task.images[root], self._settings.first_view
        view = self._store.fitted(source, processor, processor)
        self._seen[root] = Seen(root, WHOLE, View(self._store.open(source).size, view.size))
        mode, size = self._settings.crops, view.size
        if mode in ("true", "target"):
            return view
        rng = np.random.default_rng([root, *size])
        if (empty := nothing_to_see(mode, size, rng)) is not None:
            return empty
        others = [image for index, image in enumerate(self._task.images) if index != root] or [source]
        shown = others[rng.integers(len(others))] if mode == "random" else other_image(self._task)
        return self._store.open(shown).resize(size, Image.Resampling.BICUBIC)


def images_asked_for(call: Call) -> list[int]:
    """The images that a call brings back whole; none if it is another call, or not to be read."""
    indices = call.arguments.get("img_idxs") if call.name == FOCUS_TOOL else None
    are_read = isinstance(indices, (list, tuple)) and all(type(index) is int and index >= 0 for index in indices)
    return list(indices or ()) if are_read else []


class ChainEnvironment(NumberedEnvironment):
    """All images at once and no tools: the model writes the whole chain in one turn."""

    system_prompt = CHAIN_PROMPT


def _text(value: Any, name: str) -> str:
    """The model's value of an argument that is text. Numbers are accepted, since models write answers as numbers.

    Raises:
        ModelFault: for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ModelFault(FaultKind.BAD_ARGUMENTS, f"{name} must be text.")
    return str(value)
