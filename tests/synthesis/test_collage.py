"""Collages: the box shows the very picture, the words lead to it, and the detail is small."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageColor

from fovea.boxes import Box, Frame, View
from fovea.config import ConfigError
from fovea.data.references import checked
from fovea.data.task_files import load_tasks, save_tasks
from fovea.images import cut, open_image
from fovea.tasks import AnswerKind, Target, Task
from synthesis.collage import CollageArguments, collages, main

COLOURS = ("red", "green", "blue", "gold", "teal", "navy")
MARKED = Box(0.25, 0.5, 0.5, 0.75, Frame.UNIT)


def picture(colour, size=(200, 120)):
    """One colour, with a white mark in `MARKED`."""
    image = Image.new("RGB", size, colour)
    box = MARKED.to(Frame.ORIGINAL, View(size, size))
    image.paste("white", tuple(map(round, box.coordinates)))
    return image


@pytest.fixture
def tasks():
    return [
        Task(f"t{n}", (picture(colour),), "Which colour is it?", colour, boxes=(Target(MARKED),))
        for n, colour in enumerate(COLOURS)
    ]


def arguments(**options):
    return CollageArguments(dataset_name="x", output_dir="x", **{"picture_px": 200, "view_px": 128, **options})


def is_near(pixel, colour):
    return np.abs(np.subtract(pixel, ImageColor.getrgb(colour))).max() < 12


def place_of(task):
    row, column = map(int, re.match(r"In the picture in row (\d+), column (\d+): ", task.question).groups())
    return row, column


def test_the_words_and_the_box_lead_to_the_picture_that_is_asked_about(tasks):
    for task in collages(tasks, arguments(sides=[3])):
        row, column = place_of(task)
        collage = open_image(task.images[0])
        middle = ((column - 0.5) / 3 * collage.width, (row - 0.5) / 3 * collage.height - 20)
        found, expected = (
            collage.getpixel(tuple(map(round, middle))),
            Image.new("RGB", (1, 1), task.answer).getpixel((0, 0)),
        )
        assert np.abs(np.subtract(found, expected)).max() < 12
        inside = np.asarray(cut(collage, task.boxes[0].box).crop((2, 2, 40, 20)))
        assert inside.min() > 240, "the box holds the white mark and nothing else"


def test_a_picture_stands_once_beside_others_and_the_same_seed_gives_the_same(tasks):
    first, again = (list(collages(tasks, arguments(sides=[2]))) for _ in range(2))
    other = list(collages(tasks, arguments(sides=[2], seed=1)))
    assert [task.images for task in first] == [task.images for task in again] != [task.images for task in other]
    for task in first:
        collage = open_image(task.images[0])
        centres = [collage.getpixel((round(x * collage.width), round(y * collage.height) - 20)) for x in (0.25, 0.75)
                   for y in (0.25, 0.75)]  # fmt: skip
        assert sum(is_near(centre, task.answer) for centre in centres) == 1


def test_the_smallest_grid_is_taken_in_which_the_detail_is_small(tasks):
    for px, side in {10: 2, 7: 3, 4: 5, 0.1: 5}.items():
        assert {task.metadata["collage_side"] for task in collages(tasks, arguments(detail_px=px))} == {side}
    for task in collages(tasks, arguments(detail_px=7)):
        side = min(task.boxes[0].box.width, task.boxes[0].box.height) * 128
        assert side == pytest.approx(task.metadata["detail_px"], abs=0.5) and side <= 7.5


def test_without_a_box_the_picture_is_what_must_be_seen_and_box_answers_move_with_it(tasks):
    plain = [Task(task.id, task.images, task.question, task.answer) for task in tasks]
    for task in collages(plain, arguments(sides=[2])):
        assert np.asarray(cut(open_image(task.images[0]), task.boxes[0].box)).shape == (120, 200, 3)
    boxes = [checked(Task(t.id, t.images, "Where is the mark?", [[50, 60, 100, 90]], AnswerKind.BOX)) for t in tasks]
    for task in collages(boxes, arguments(sides=[2])):
        [answer] = task.answer
        inside = cut(open_image(task.images[0]), Box.from_dict(answer)).crop((2, 2, 40, 20))
        assert np.asarray(inside).min() > 240


def test_too_few_pictures_and_a_grid_of_one_are_refused(tasks):
    with pytest.raises(ConfigError, match="1 different pictures are too few"):
        list(collages(tasks[:1] * 3, arguments()))
    with pytest.raises(ConfigError, match="two pictures a side or more"):
        list(collages(tasks, arguments(sides=[1, 2])))


def test_the_command_writes_tasks_that_load_again(tasks, tmp_path, monkeypatch, capsys):
    save_tasks([*tasks, Task("blind", (), "What?", "x")], tmp_path / "in")
    words = ["--dataset_name", str(tmp_path / "in"), "--output_dir", str(tmp_path / "out"), "--picture_px", "200"]
    monkeypatch.setattr(sys, "argv", ["fovea tasks collage", *words])
    main()
    made = load_tasks(tmp_path / "out")
    assert len(made) == 6 and made[0].first_view_max_pixels == 512**2 and made[0].metadata["needs_zoom"]
    assert "left out: 1 tasks" in capsys.readouterr().out


@pytest.mark.parametrize("labels", ["cup", ["cup"]])
def test_a_label_alone_is_a_text_or_a_list_of_one(tasks, labels):
    labelled = [replace(task, metadata={"labels": labels}) for task in tasks]
    for task in collages(labelled, arguments(sides=[3])):
        [label] = task.metadata["labels"]
        assert label.startswith("cup in the picture in row")
    assert next(iter(collages([replace(t, metadata={"labels": None}) for t in tasks], arguments(sides=[3])))).images
