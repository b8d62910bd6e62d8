"""Checks of an environment: the frame in which it reads boxes, and the sizes at which images reach the model."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from doctor.findings import Note, evenly
from environments.arguments import EpisodeArguments
from environments.factories import box_frame, environment_factory, make_renderer
from environments.focus import FOCUS_TOOL
from environments.play import play
from environments.rendering import Renderer
from environments.seats import Conversation, Limits, Reply, opening, tools_of
from environments.zoom import ZoomEnvironment
from fovea.answers import written
from fovea.boxes import Box, Frame, Framing, View
from fovea.episodes import Episode, ModelFault
from fovea.images import MAX_IMAGE_PIXELS, PixelLimits
from fovea.models.loading import Model
from fovea.tasks import Task

ZOOM = "image_zoom_in_tool"
NUM_SHOWN = 24
"""Tasks whose opening is rendered."""


@dataclass(frozen=True)
class Subject:
    """The parts of a training: model, tasks, environment and the renderer of episodes.

    `frame` is the frame in which the environment reads boxes, which may have been chosen against the model's family.
    """

    model: Model
    has_weights: bool
    tasks: Sequence[Task]
    make_environment: Callable[[], Any]
    renderer: Renderer
    limits: Limits
    frame: Frame
    padding: float = 1.0

    @property
    def crop_limits(self) -> PixelLimits | None:
        """Between how many pixels crops reach the model; None in an environment of another kind."""
        environment = self.make_environment()
        return environment._settings.crop if isinstance(environment, ZoomEnvironment) else None

    @classmethod
    def of(cls, loaded: tuple[Model, bool], tasks: Sequence[Task], episodes: EpisodeArguments) -> Subject:
        model, has_weights = loaded
        factory, renderer = environment_factory(episodes, model), make_renderer(episodes, model)
        return cls(
            model,
            has_weights,
            tasks,
            factory,
            renderer,
            episodes.limits(),
            box_frame(episodes, model),
            episodes.crop_padding,
        )

    def play(self, tasks: Sequence[Task]) -> list[Episode]:
        """Episodes that focus on the first image, where they can, zoom into its middle, and give the reference."""
        script = _Script(self.frame, self.renderer)
        return play(
            script, tasks, environment_factory=self.make_environment, limits=self.limits, renderer=self.renderer
        )

    def shows(self, environment: Any, image: Image.Image) -> list[Image.Image]:
        """The images with which an episode on `image` opens; the rest of the task is that of the first one."""
        task = Task("drawn", (image,), "What is there?", "stripes")
        if self.tasks:
            task = replace(self.tasks[0], images=(image,) * max(1, len(self.tasks[0].images)))
            task = replace(task, first_view_max_pixels=None)
        content = opening(environment, task)[1]["content"]
        return [block["image"] for block in content if block["type"] == "image"]


@dataclass(frozen=True)
class _Script:
    """A policy that focuses once, where it can, zooms once and answers."""

    frame: Frame
    renderer: Renderer

    def reply(self, conversations: Sequence[Conversation], *, max_tokens: Sequence[int]) -> list[Reply]:
        return [self._reply(conversation) for conversation in conversations]

    def _reply(self, conversation: Conversation) -> Reply:
        text = f"<think>I see it.</think>\n<answer>{written(conversation.task, conversation.framing)}</answer>"
        can_focus = any(tool.__name__ == FOCUS_TOOL for tool in conversation.tools)
        done = sum(message["role"] == "tool" for message in conversation.messages)
        if conversation.images and can_focus and not done:
            call = {"name": FOCUS_TOOL, "arguments": {"question": "What is there?", "img_idxs": [0]}}
            text = f"<think>I look.</think>\n<tool_call>\n{json.dumps(call)}\n</tool_call>"
        elif conversation.images and done == int(can_focus):
            size = conversation.images[-1 if can_focus else 0].size
            box = Framing(self.frame, (View(size, size),)).write(Box(0.3, 0.3, 0.7, 0.7, Frame.UNIT))
            call = {"name": ZOOM, "arguments": {"bbox_2d": box, "label": "it", "img_idx": 0}}
            text = f"<think>I zoom in.</think>\n<tool_call>\n{json.dumps(call)}\n</tool_call>"
        tokenizer = self.renderer.tokenizer
        ids = (*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id)
        return Reply(text, ids)


def zoomed(environment: Any, image: Image.Image, first: Image.Image, region: Box, frame: Frame) -> Image.Image:
    """The crop that a zoom into `region` of the image returns; `first` is the image's first view."""
    arguments = {"bbox_2d": Framing(frame, (View(image.size, first.size),)).write(region), "label": "", "img_idx": 0}
    tool = getattr(environment, ZOOM)
    known = inspect.signature(tool).parameters
    blocks = tool(**{name: value for name, value in arguments.items() if name in known})
    return next(block["image"] for block in blocks if block["type"] == "image")


def misread_boxes(note: Note, subject: Subject) -> None:
    """Boxes that the environment reads in another frame than the model writes, and crops of the resized image.

    A marked region is drawn, a zoom into it written as the model writes boxes, and its crop looked at.
    """
    environment = subject.make_environment()
    if ZOOM not in tools_of(environment):
        note.ok(f"the environment has no {ZOOM}: its coordinates are its own")
        return
    limits = subject.model.limits
    width = math.isqrt(min(MAX_IMAGE_PIXELS // 2, 10 * limits.max_pixels) * 4 // 3)
    side = min(width // 8, max(48, math.isqrt(limits.max_pixels) // 4))
    image, region = _marked(width, width * 3 // 4, side=side)
    frame = subject.model.frame
    try:
        first = subject.shows(environment, image)[0]
        crop = zoomed(environment, image, first, region, frame)
    except ModelFault as fault:
        _frame_is_wrong(note, subject, f"is refused ({fault})")
        return
    except Exception as error:
        _cannot_tell(note, environment, error)
        return
    levels = np.asarray(crop.convert("RGB")).astype(int)
    red = levels[..., 0] > 190
    if red.mean() < 0.8 / subject.padding**2:
        _frame_is_wrong(note, subject, f"comes back as a crop with {red.mean():.0%} of what is in it")
        return
    could_show = first.width * 1.9 < image.width and crop.width >= 0.8 * subject.padding * region.width * width
    if could_show and float(levels[red][:, 1].std()) < 40:
        note.fail(
            "a crop is as blurred as the first view: it is cut from the resized image", "cut crops from the original"
        )
        return
    note.ok(f"a box in {frame.value} comes back as a crop of it, {crop.width}x{crop.height}, cut from the original")


def _frame_is_wrong(note: Note, subject: Subject, outcome: str) -> None:
    frame = subject.model.frame
    is_chosen = subject.frame is not frame
    cure = "leave --box_frame to the model's family" + (", unless its cold start taught it another" * is_chosen)
    (note.warn if is_chosen else note.fail)(f"a box in {frame.value}, as this family writes them, {outcome}", cure)


def _cannot_tell(note: Note, environment: Any, error: Exception) -> None:
    """An environment of the user's own may rightly refuse a drawn image; ours may not."""
    if isinstance(environment, ZoomEnvironment):
        raise error
    note.warn(
        f"cannot be told: on a drawn image the environment raised {type(error).__name__}: {error}",
        "look at a crop of your own image: fovea check-env",
    )


def _marked(width: int, height: int, *, side: int) -> tuple[Image.Image, Box]:
    """A grey image with one region of fine red and white stripes, off its centre, and that region."""
    pixels = np.full((height, width, 3), 90, dtype=np.uint8)
    left, top = width * 5 // 8, height // 5
    stripes = np.zeros((side, side * 3 // 2, 3), dtype=np.uint8)
    stripes[..., 0] = 255
    stripes[:, ::2] = 255
    pixels[top : top + side, left : left + side * 3 // 2] = stripes
    region = Box(left / width, top / height, (left + side * 3 // 2) / width, (top + side) / height, Frame.UNIT)
    return Image.fromarray(pixels), region


SIZES = ((3, 3), (4000, 40), (40, 4000), (9000, 8000))
"""Images that data sets hold now and then, (width, height)."""


def resized_images(note: Note, subject: Subject) -> None:
    """First views and crops, of odd images and of the tasks, that reach the model at another size than they have."""
    environment = subject.make_environment()
    patch = getattr(subject.model.processor.image_processor, "patch_size", None)
    most = 0
    try:
        for image in _views(subject, environment):
            inputs = subject.renderer.image_inputs(image)
            most = max(most, inputs.num_tokens)
            rows, columns = inputs.extent[-2:].tolist()
            if patch and (columns * patch, rows * patch) != image.size:
                note.fail(
                    f"an image of {image.width}x{image.height} is resized once more, to {columns * patch}x"
                    f"{rows * patch}, on its way to the model: boxes and crops are then off",
                    f"keep images on a grid of {patch * subject.renderer.merge_size} pixels, within min_pixels and "
                    "max_pixels (a task's first_view_max_pixels too)",
                )
                return
    except Exception as error:
        _cannot_tell(note, environment, error)
        return
    note.ok(f"images of {', '.join(f'{w}x{h}' for w, h in SIZES)} and of tasks pass; at most {most} tokens an image")


def _views(subject: Subject, environment: Any) -> Iterator[Image.Image]:
    """First views of images of odd sizes with a crop of the middle of each, and those of some tasks."""
    for size in SIZES:
        image = Image.new("RGB", size, "navy")
        shown = subject.shows(environment, image)
        yield from shown
        if shown and ZOOM in tools_of(environment):
            yield zoomed(environment, image, shown[0], Box(0.25, 0.25, 0.75, 0.75, Frame.UNIT), subject.frame)
    for task in evenly(subject.tasks, NUM_SHOWN):
        yield from (block["image"] for block in opening(environment, task)[1]["content"] if block["type"] == "image")
