"""What `fovea doctor` says about an environment: what it shows, cuts and lets the model see."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory, make_renderer
from environments.play import Conversation, Limits, Reply, opening, play, tools_of
from environments.rendering import Renderer
from environments.zoom import ZoomEnvironment
from fovea.answers import written
from fovea.boxes import Box, Frame, Framing, View
from fovea.doctor import Note, colored
from fovea.episodes import Episode, ModelFault
from fovea.images import MAX_IMAGE_PIXELS, PixelLimits
from fovea.models.loading import Model
from fovea.preflight import evenly
from fovea.tasks import Task

ZOOM = "image_zoom_in_tool"
NUM_SHOWN = 24
"""Tasks whose opening is rendered."""


@dataclass(frozen=True)
class Subject:
    """What a training puts together: model, tasks, environment and how episodes are rendered.

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
        frame = Frame(episodes.box_frame) if episodes.box_frame else model.frame
        factory, renderer = environment_factory(episodes, model), make_renderer(episodes, model)
        return cls(model, has_weights, tasks, factory, renderer, episodes.limits(), frame, episodes.crop_padding)

    def play(self, tasks: Sequence[Task]) -> list[Episode]:
        """Episodes that zoom into the middle of the first image and then give the reference as their answer."""
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
    """A policy that zooms once and answers."""

    frame: Frame
    renderer: Renderer

    def reply(self, conversations: Sequence[Conversation], *, max_tokens: Sequence[int]) -> list[Reply]:
        return [self._reply(conversation) for conversation in conversations]

    def _reply(self, conversation: Conversation) -> Reply:
        text = f"<think>I see it.</think>\n<answer>{written(conversation.task, conversation.framing)}</answer>"
        if conversation.images and len(conversation.messages) == 2:
            size = conversation.images[0].size
            box = Framing(self.frame, (View(size, size),)).write(Box(0.3, 0.3, 0.7, 0.7, Frame.UNIT))
            call = {"name": ZOOM, "arguments": {"bbox_2d": box, "label": "it", "img_idx": 0}}
            text = f"<think>I zoom in.</think>\n<tool_call>\n{json.dumps(call)}\n</tool_call>"
        tokenizer = self.renderer.tokenizer
        ids = (*tokenizer(text, add_special_tokens=False).input_ids, tokenizer.eos_token_id)
        return Reply(text, ids)


def zoomed(environment: Any, image: Image.Image, first: Image.Image, region: Box, frame: Frame) -> Image.Image:
    """What a zoom into `region` of the image returns, whose first view is `first`."""
    arguments = {"bbox_2d": Framing(frame, (View(image.size, first.size),)).write(region), "label": "", "img_idx": 0}
    tool = getattr(environment, ZOOM)
    known = inspect.signature(tool).parameters
    blocks = tool(**{name: value for name, value in arguments.items() if name in known})
    return next(block["image"] for block in blocks if block["type"] == "image")


def coordinates(note: Note, subject: Subject) -> None:
    """Draws a marked region, zooms into it as the model writes boxes, and looks whether the crop shows it unblurred."""
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
    pixels = np.asarray(crop.convert("RGB")).astype(int)
    share = float((pixels[..., 0] > 190).mean())
    if share < 0.8 / subject.padding**2:
        _frame_is_wrong(note, subject, f"comes back as a crop with {share:.0%} of what is in it")
        return
    could_show = first.width * 1.9 < image.width and crop.width >= 0.8 * subject.padding * region.width * width
    if could_show and float(pixels[pixels[..., 0] > 190][:, 1].std()) < 40:
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
    note.warn(f"cannot be told: on a drawn image the environment raised {type(error).__name__}: {error}")


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


def sizes(note: Note, subject: Subject) -> None:
    """Whether first views and crops, of odd images and of the tasks, reach the model at the size they are made in."""
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


def prompt(note: Note, subject: Subject) -> None:
    """Whether the chat template shows the tools, and text of the data cannot pose as control tokens."""
    environment = subject.make_environment()
    tools = tools_of(environment)
    task = subject.tasks[0]
    messages = opening(environment, task)
    ids = subject.renderer.prompt_ids(messages, list(tools.values()))
    if tools and ids == subject.renderer.prompt_ids(messages, []):
        note.fail(f"the chat template leaves out the tools {list(tools)}", "use a template that shows tools")
        return
    if not subject.renderer.tokenizer.decode(ids).rstrip().endswith(("assistant", "<think>")):
        note.warn("the prompt does not end where an assistant's turn begins", "look at the chat template")
    marked = sum("<|" in task.question for task in subject.tasks)
    also = f"; control tokens in {marked} questions are escaped" if marked else ""
    note.ok(f"tools in the prompt: {', '.join(tools) or 'none'}{also}")


def episode(note: Note, subject: Subject) -> None:
    """Shows an episode with what carries loss, and checks that the environment let it be played."""
    with_images = [task for task in subject.tasks if task.images] or list(subject.tasks)
    played = subject.play(with_images[:1])[0]
    record = played.record
    show(subject.renderer, record.prompt_ids, [0] * len(record.prompt_ids))
    show(subject.renderer, record.completion_ids, record.loss_mask)
    if ZOOM in tools_of(subject.make_environment()) and with_images[0].images and not played.num_zooms:
        note.fail(f"a zoom into the middle of the image is refused: {played.faults[0].message}", "see coordinates")
        return
    note.ok(f"{sum(record.loss_mask)} of {len(record.completion_ids)} completion tokens carry loss")


def show(renderer: Renderer, ids: Sequence[int], mask: Sequence[int]) -> None:
    """Prints token ids as text: what carries loss in colour, runs of image placeholders as one."""
    parts: list[tuple[int, list[int]]] = []
    for token, counts in zip(ids, mask, strict=True):
        if not parts or parts[-1][0] != counts:
            parts.append((counts, []))
        parts[-1][1].append(token)
    pad = re.escape(renderer.image_token)
    for counts, tokens in parts:
        text = re.sub(f"(?:{pad})+", lambda run: f"[{len(run[0]) // len(renderer.image_token)} image tokens]",
                      renderer.tokenizer.decode(tokens))  # fmt: skip
        lines = (f"      {'loss' if counts else '    '} | {line}" for line in text.strip("\n").split("\n"))
        print(colored("\n".join(lines), "32" if counts else "2"))


def lengths(note: Note, subject: Subject, most_allowed: int | None) -> int:
    """Tokens of the longest prompt of some tasks; checks that an episode fits into the model and its own budget."""
    environment = subject.make_environment()
    tools, renderer = list(tools_of(environment).values()), subject.renderer
    shown = evenly(subject.tasks, NUM_SHOWN)
    longest, budget = 0, subject.limits.max_completion_tokens
    crop = 0
    for task in shown:
        messages = opening(environment, task)
        longest = max(longest, len(renderer.prompt_ids(messages, tools)))
        views = [block["image"] for block in messages[1]["content"] if block["type"] == "image"]
        if views and ZOOM in tools_of(environment):
            whole = zoomed(environment, views[0], views[0], Box(0, 0, 1, 1, Frame.UNIT), subject.frame)
            crop = max(crop, renderer.image_inputs(whole).num_tokens)
    context = min(subject.model.network.config.get_text_config().max_position_embeddings, most_allowed or math.inf)
    if longest + budget > context:
        note.fail(
            f"a prompt of {longest} tokens and max_episode_tokens {budget} do not fit into {context:.0f}",
            f"lower max_episode_tokens to {max(0, int(context) - longest)}, or max_pixels",
        )
        return longest
    turns = subject.limits.max_turns
    wanted = turns * subject.limits.max_tokens_per_turn + (turns - 1) * crop
    if wanted > budget:
        note.warn(
            f"{turns} full turns with crops of up to {crop} tokens take {wanted}, more than max_episode_tokens "
            f"{budget}: the last zooms of such an episode end it",
            "raise max_episode_tokens, or lower crop_max_pixels",
        )
    note.ok(f"prompts of up to {longest} tokens, episodes of up to {budget} behind them, context {context:.0f}")
    return longest
