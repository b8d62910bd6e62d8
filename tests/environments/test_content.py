"""Return values of environments: accepted content, ownership of pixels, and blame for errors."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import pytest
from PIL import Image, ImageDraw

from environments.check import EnvironmentCheckError, check_environment
from environments.content import content_of
from environments.play import play
from environments.prompts import TOOLS_PROMPT
from environments.seats import Limits, begin
from fovea.episodes import FaultKind, ModelFault
from fovea.tasks import Task
from tests.environments.test_play import Scripted

RED, NAVY = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (64, 64), "navy")
TEXT, SHOWN = {"type": "text", "text": "a"}, {"type": "image", "image": RED}
ANSWER = "<answer>7</answer>"


def call(name: str, arguments: str) -> str:
    return f'<tool_call>{{"name": "{name}", "arguments": {arguments}}}</tool_call>'


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        ("a", ["text"]),
        (7, ["text"]),
        (0.5, ["text"]),
        (True, ["text"]),
        (np.float32(0.5), ["text"]),
        ({"count": 3}, ["text"]),
        ([1, 2], ["text"]),
        ([], ["text"]),
        (None, ["text"]),
        ({1, 2}, ["text"]),
        ({"found": None, "n": 2}, ["text"]),
        ({"type": "button", "text": "OK"}, ["text"]),
        ([{"type": "car", "score": 0.9}], ["text"]),
        (["a", "b"], ["text", "text"]),
        (RED, ["image"]),
        (SHOWN, ["image"]),
        ([RED, "a"], ["image", "text"]),
        ((SHOWN, TEXT, "7"), ["image", "text", "text"]),
    ],
)
def test_texts_data_images_and_blocks_are_content(value, kinds):
    assert [block["type"] for block in content_of(value, "it")] == kinds


@pytest.mark.parametrize(
    "value",
    [
        object(),
        b"a",
        np.zeros((4, 4, 3)),
        {"type": "image", "image": "a.png"},
        {"type": "image", "image": np.zeros((4, 4, 3))},
        {"type": "image"},
        {"a": object()},
        [RED, None],
        [RED, 7],
        [TEXT, {"a": object()}],
    ],
)
def test_anything_else_is_refused_by_name(value):
    with pytest.raises(TypeError, match="tool look returned"):
        content_of(value, "tool look")


def test_images_are_the_conversations_own_unless_episodes_share_them():
    assert (
        content_of(SHOWN, "it")[0]["image"] is not RED and content_of(RED, "it")[0]["image"].tobytes() == RED.tobytes()
    )
    assert content_of({**SHOWN, "is_shared": True}, "it")[0]["image"] is RED


class Canvas:
    """Draws on the picture that it has shown, and on the arguments that it was given."""

    def reset(self, **row: Any) -> list:
        self.canvas = Image.new("RGB", (64, 64), "white")
        return [{"type": "image", "image": self.canvas}, {"type": "text", "text": row["question"]}]

    def mark(self, where: list[int]) -> Image.Image:
        """Marks a place.

        Args:
            where: It.
        """
        ImageDraw.Draw(self.canvas).rectangle([*where, 40, 40], fill="black")
        where.append(99)
        return self.canvas


def test_what_an_environment_draws_later_changes_nothing_that_was_played(make_task):
    policy = Scripted(call("mark", '{"where": [10, 10]}'), call("mark", '{"where": [30, 30]}'), ANSWER)
    [episode] = play(policy, [make_task()], environment_factory=Canvas, limits=Limits(max_turns=4))
    pictures = [block["image"].tobytes() for message in episode.messages if isinstance(message["content"], list)
                for block in message["content"] if block["type"] == "image"]  # fmt: skip
    assert len(set(pictures[:2])) == 2 and pictures[0] == Image.new("RGB", (64, 64), "white").tobytes()
    assert [turn.action.arguments for turn in episode.turns[:2]] == [{"where": [10, 10]}, {"where": [30, 30]}]


class Sides:
    """A tool with typed arguments, and a bug for one of them."""

    def reset(self, **row: Any) -> str:
        return "look"

    def look(self, side: Literal["left", "right"], times: int = 1) -> str:
        """Looks.

        Args:
            side: Where.
            times: How often.
        """
        if side == "right":
            raise KeyError("a bug")
        return side.upper() * times


@pytest.mark.parametrize(
    "arguments", ['{"side": 3}', '{"side": null}', '{"side": ["left"]}', '{"side": "left", "times": "x"}']
)
def test_an_error_that_arguments_of_another_type_led_to_is_the_models(make_task, arguments):
    [episode] = play(
        Scripted(call("look", arguments), ANSWER), [make_task()], environment_factory=Sides, limits=Limits()
    )
    assert (
        episode.turns[0].action.kind is FaultKind.BAD_ARGUMENTS and "of another type" in episode.turns[0].action.message
    )


def test_any_other_error_is_a_bug(make_task):
    with pytest.raises(KeyError, match="a bug"):
        play(Scripted(call("look", '{"side": "right"}')), [make_task()], environment_factory=Sides, limits=Limits())
    with pytest.raises(ValueError, match="bad_side"):
        ModelFault("bad_side", "no")


class Typed(Sides):
    """Annotations that JSON fits in its own way."""

    def look(self, box: tuple[float, float, float, float], most: int | None) -> str:
        """Looks.

        Args:
            box: Where.
            most: How much at most.
        """
        raise KeyError("a bug of the tool")


def test_arguments_that_json_can_only_write_so_are_right(make_task):
    policy = Scripted(call("look", '{"box": [0, 0, 1, 0.5], "most": null}'), ANSWER)
    with pytest.raises(KeyError, match="a bug of the tool"):
        play(policy, [make_task()], environment_factory=Typed, limits=Limits())


class Named:
    """Names what it wants of a row."""

    def reset(self, images: list, question: str) -> list:
        return [*images, question]


class Blind:
    def reset(self, **row: Any) -> None:
        self.row = row


def test_an_environment_is_reset_with_the_whole_row():
    task = Task(
        "t", (), "Which?", "B", choices=("red", "blue"), columns={"level": 3, "answer": "blue"}, metadata={"a": 1}
    )
    environment = Blind()
    messages = begin(environment, task, None).messages
    assert (
        environment.row["level"] == 3 and environment.row["answer"] == "B" and environment.row["metadata"] == {"a": 1}
    )
    assert environment.row["question"] == "Which?\n(A) red\n(B) blue" and environment.row["task"] is task
    assert messages[1]["content"] == [{"type": "text", "text": "Which?\n(A) red\n(B) blue"}]


def test_a_reset_may_name_what_it_takes(picture):
    task = Task("t", (picture,), "What?", "7", columns={"level": 3})
    assert [block["type"] for block in begin(Named(), task, None).messages[1]["content"]] == ["image", "text"]


@pytest.mark.parametrize("nothing", ["", [], None])
def test_an_empty_opening_is_the_question_where_there_are_no_images(nothing):
    environment = Blind()
    environment.reset = lambda **row: nothing
    assert begin(environment, Task("t", (), "What?", "7"), None).messages[1]["content"][0]["text"] == "What?"


def test_images_are_not_left_out_in_silence(make_task):
    with pytest.raises(ValueError, match=r"task .* cannot be shown: Blind\.reset returned None"):
        begin(Blind(), make_task(), None)


def test_an_environment_without_a_prompt_is_not_told_to_zoom(make_task):
    assert begin(Sides(), make_task(), None).messages[0]["content"] == TOOLS_PROMPT


def test_half_of_a_surrogate_pair_can_be_played(make_task, tiny):
    from environments.rendering import Renderer

    renderer = Renderer(tiny.processor)
    task = Task("t", (), "What \ud83d?", "7")
    assert begin(Sides(), task, renderer).token_ids


class Shared(Sides):
    """Keeps its images on the class."""

    seen: ClassVar[list] = []

    def reset(self, **row: Any) -> str:
        self.seen.clear()
        self.seen.extend(row["images"])
        return "look"

    def look(self) -> Image.Image:
        """Looks."""
        return self.seen[0]


class ByPosition(Sides):
    def look(self, side: str, /) -> str:
        """Looks.

        Args:
            side: Where.
        """
        return side


class Nothing(Sides):
    def look(self) -> None:
        """Looks."""


class Rows(Sides):
    def reset(self, **row: Any) -> list:
        return [row["images"][0], row["question"]]

    def look(self) -> Any:
        """Looks."""
        return NAVY, "as before"


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (Shared, "while another episode is under way"),
        (ByPosition, "takes side by position"),
        (Nothing, "tool look returned None"),
        (Blind, "reset returned None"),
    ],
)
def test_the_check_tries_every_tool_with_arguments_that_fit(kind, problem):
    with pytest.raises(EnvironmentCheckError, match=problem):
        check_environment(kind)


class Fitting(Sides):
    def look(self, box: tuple[int, int], side: str | None) -> str:
        """Looks.

        Args:
            box: Where.
            side: Which.
        """
        return f"{box[0] + box[1]} {side}"


def test_arguments_are_made_up_for_all_schemas():
    assert any(line.startswith("answers look the same") for line in check_environment(Fitting))


def test_the_check_says_what_of_a_task_is_shown():
    passed = check_environment(Rows)
    assert any(line.startswith("shows 1 of 1 images of a task and its question") for line in passed)
    assert any("shows 0 of 1 images of a task and NOT its question" in line for line in check_environment(Canvas0))


class Canvas0(Sides):
    def look(self, side: str) -> str:
        """Looks.

        Args:
            side: Where.
        """
        return side
