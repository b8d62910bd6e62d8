"""Crops tell how boxes are meant, however little of them a first view shows."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from environments.trace_crops import UNLIKE, FrameEvidence, likeness, zooms_in
from environments.traces import Trace
from fovea.boxes import Box, Frame, View
from fovea.images import PixelLimits, cut, fit

VIEWS, CROPS = PixelLimits(16, 16384, 16), PixelLimits(4096, 5120, 16)
SIZES = [(1200, 800), (800, 1200), (6000, 80), (60, 5000), (4000, 3000)]


def page(rng, size) -> tuple[Image.Image, list[Box]]:
    """A page of small print, and the boxes of its words (ORIGINAL)."""
    picture = Image.new("RGB", size, "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(max(10, min(size) // 40))
    boxes = []
    for _ in range(12):
        word = f"No. {rng.integers(1000)}"
        left, top, right, bottom = draw.textbbox((0, 0), word, font=font)
        x, y = (int(rng.integers(max(1, most))) for most in (size[0] - right, size[1] - bottom))
        draw.text((x, y), word, fill=tuple(map(int, rng.integers(0, 160, 3))), font=font)
        ends = (min(size[0], x + right), min(size[1], y + bottom))
        boxes.append(Box(x + left, y + top, max(ends[0], x + left + 8), max(ends[1], y + top + 8), Frame.ORIGINAL))
    return picture, boxes


def traces_of(size, padding, frame, seed=0):
    """Traces of one zoom each, as an environment that enlarges boxes by `padding` would play them."""
    rng = np.random.default_rng(seed)
    for _ in range(6):
        picture, boxes = page(rng, size)
        shown = fit(picture, VIEWS)
        view = View(picture.size, shown.size)
        for box in boxes[:2]:
            numbers = [round(value) for value in box.to(frame, View(picture.size, shown.size)).coordinates]
            if numbers[0] == numbers[2] or numbers[1] == numbers[3]:
                continue
            seen = Box.of(numbers, frame).to(Frame.UNIT, view).enlarged(padding).clipped(view)
            call = f'<tool_call>{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {numbers}}}}}</tool_call>'
            yield Trace(
                [
                    {"role": "user", "content": [{"type": "image", "image": shown}, {"type": "text", "text": "?"}]},
                    {"role": "assistant", "content": call},
                    {"role": "tool", "content": [{"type": "image", "image": fit(cut(picture, seen), CROPS)}]},
                ]
            )


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("padding", [1.0, 1.5])
def test_small_print_tells_the_padding_of_its_boxes(size, padding):
    evidence = FrameEvidence(VIEWS, frames=(Frame.PER_MILLE, Frame.UNIT), paddings=(1.0, 1.5))
    for trace in traces_of(size, padding, Frame.PER_MILLE):
        evidence.add(trace)
    assert evidence.num_zooms > 5
    assert evidence.best(Frame.PER_MILLE) == (Frame.PER_MILLE, padding), evidence.words()


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_crop_is_like_what_is_under_its_box(size):
    """Also where a word is a few grey pixels in the first view."""
    zooms = [zoom for trace in traces_of(size, 1.0, Frame.PER_MILLE) for zoom in zooms_in(trace)]
    assert zooms
    for zoom in zooms:
        view = View(zoom.source.size, zoom.source.size)
        region = Box.of(zoom.numbers, Frame.PER_MILLE).to(Frame.UNIT, view)
        assert likeness(zoom.source, zoom.crop, region) >= UNLIKE


def test_a_crop_is_unlike_another_place():
    """Of pictures that differ from place to place, at every size of a box in the view."""
    rng = np.random.default_rng(0)
    for share in (0.08, 0.2, 0.5):
        told = []
        for _ in range(20):
            patches = rng.integers(0, 255, size=(64, 64, 3), dtype=np.uint8)
            picture = Image.fromarray(patches).resize((1024, 1024), Image.Resampling.NEAREST)
            shown = picture.resize((128, 128), Image.Resampling.BICUBIC)
            here, there = (Box(at, at, at + share / 2, at + share / 2, Frame.UNIT) for at in (0.1, 0.6))
            crop = fit(cut(picture, here), CROPS)
            assert likeness(shown, crop, here) > 0.5
            told.append(likeness(shown, crop, there) < 0.5)
        assert sum(told) >= 18, share
