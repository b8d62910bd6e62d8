"""An episode as a picture: each box where it was drawn, its crop below, every text."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageColor

from environments.drawing import COLOURS, CROP_PX, LINE_PX, VIEW_PX, draw
from fovea.boxes import Box, Frame
from fovea.episodes import TokenRecord

REGIONS = [Box(0.25, 0.5, 0.75, 0.75, Frame.UNIT), Box(0.0, 0.0, 0.25, 0.25, Frame.UNIT)]


@pytest.fixture
def episode(make_episode):
    view, crops = Image.new("RGB", (160, 80), "navy"), [Image.new("RGB", (32, 32), c) for c in ("gold", "teal")]
    record = TokenRecord((1,), (2,), (1,), (view, *crops))
    return replace(make_episode("7", regions=REGIONS), tokens=record)


def pixel(picture, x, y):
    return picture.getpixel((round(x), round(y)))


def test_each_box_is_drawn_on_its_image_in_a_colour_of_its_own(episode):
    picture = draw(episode)
    width, height = VIEW_PX, VIEW_PX // 2
    for region, colour in zip(REGIONS, COLOURS, strict=False):
        middle = (region.x1 + region.x2) / 2 * width
        assert pixel(picture, middle, region.y2 * height) == ImageColor.getrgb(colour)
        assert pixel(picture, middle, (region.y1 + region.y2) / 2 * height) == ImageColor.getrgb("navy")


def test_the_crops_stand_below_the_views_in_their_order(episode):
    picture = draw(episode)
    top = VIEW_PX // 2 + 8 + CROP_PX / 2
    shown = [pixel(picture, number * (CROP_PX + 8) + CROP_PX / 2, top) for number in range(2)]
    assert shown == [ImageColor.getrgb("gold"), ImageColor.getrgb("teal")]


def test_title_question_and_every_turn_take_their_lines(episode):
    without = draw(episode)
    titled = draw(episode, title="step 1")
    assert titled.height == without.height + LINE_PX
    text = np.asarray(titled)[VIEW_PX // 2 + 8 + CROP_PX + 8 :]
    rows = text.reshape(-1, *text.shape[1:])[: 5 * LINE_PX].reshape(5, LINE_PX, -1)
    assert all(line.min() < 128 for line in rows), "the title, the question, two zooms and the answer"
