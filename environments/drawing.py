"""An episode as one picture: the images as the model saw them, its boxes, its crops and its text."""

from __future__ import annotations

import textwrap

from PIL import Image, ImageDraw

from fovea.answers.boxes import answer_boxes
from fovea.boxes import Frame, View
from fovea.episodes import Episode
from fovea.tasks import AnswerKind

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080")
VIEW_PX, CROP_PX, LINE_PX = 320, 140, 14


def draw(episode: Episode, *, title: str = "") -> Image.Image:
    """The picture: first views with the boxes of each turn, the crops beside them, and the texts below."""
    shown = list(episode.record.images)
    views = shown[: len(episode.task.images)]
    crops = shown[len(views) :]
    scaled = [_fitted(view, VIEW_PX) for view in views]
    for number, crop in enumerate(episode.crops):
        canvas = scaled[crop.root]
        box = crop.region.to(Frame.INPUT, View(canvas.size, canvas.size)).coordinates
        ImageDraw.Draw(canvas).rectangle(box, outline=COLOURS[number % len(COLOURS)], width=2)
    if episode.task.kind is AnswerKind.BOX and episode.answer and episode.framing:
        for target in answer_boxes(episode.task, episode.answer, episode.framing):
            canvas = scaled[target.img_idx]
            box = target.box.to(Frame.INPUT, View(canvas.size, canvas.size)).coordinates
            ImageDraw.Draw(canvas).rectangle(box, outline="black", width=3)
    small = [_fitted(crop, CROP_PX) for crop in crops]
    lines = [title] if title else []
    lines += _wrapped(f"{episode.task.prompt} ({episode.task.answer})")
    for turn in episode.turns:
        lines += _wrapped(turn.text)
    width = max(480, sum(view.width + 8 for view in scaled), sum(crop.width + 8 for crop in small))
    heights = [max((picture.height for picture in row), default=0) for row in (scaled, small)]
    page = Image.new("RGB", (width, sum(heights) + 24 + LINE_PX * len(lines)), "white")
    top = 0
    for row, height in zip((scaled, small), heights, strict=True):
        left = 0
        for picture in row:
            page.paste(picture, (left, top))
            left += picture.width + 8
        top += height + 8
    pen = ImageDraw.Draw(page)
    for line in lines:
        pen.text((4, top), line, fill="black")
        top += LINE_PX
    return page


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """A copy whose longer side is `side`."""
    scale = side / max(image.size)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def _wrapped(text: str) -> list[str]:
    """Lines of text that the built-in font can draw."""
    plain = text.encode("latin-1", "replace").decode("latin-1")
    return [part for line in plain.split("\n") for part in textwrap.wrap(line, 76) or [""]]
