import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from environments.focus import FocusEnvironment
from environments.play import play
from environments.protocol import is_well_formed, parse_actions
from environments.seats import Limits, Reply
from environments.views import ViewSettings
from fovea.boxes import Frame
from fovea.episodes import Answer, Call, Fault, FaultKind, NoAction
from fovea.images import PixelLimits


def parse_action(text):
    [action] = parse_actions(text)
    return action


CALL = '<tool_call>\n{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 500, 500]}}\n</tool_call>'


def test_a_tool_call_is_read():
    assert parse_action(f"<think>look</think>\n{CALL}") == Call("image_zoom_in_tool", {"bbox_2d": [0, 0, 500, 500]})


def test_a_call_mentioned_in_thoughts_is_no_call():
    assert parse_action(f"<think>{CALL}</think><answer>4</answer>") == Answer("4")


def test_a_call_comes_before_an_answer_that_was_written_without_looking():
    assert isinstance(parse_action(f"{CALL}<answer>4</answer>"), Call)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("<tool_call>{'name': 1}</tool_call>", FaultKind.BAD_JSON),
        ("<tool_call>[1]</tool_call>", FaultKind.BAD_JSON),
        ('<tool_call>{"name": 3}</tool_call>', FaultKind.BAD_JSON),
        ('<tool_call>{"name": "f", "arguments": [1]}</tool_call>', FaultKind.BAD_ARGUMENTS),
        ("<tool_call>" + "[" * 3000, FaultKind.BAD_JSON),
        ("<tool_call>" + " " * 10_000 + "</tool_call>", FaultKind.BAD_JSON),
    ],
)
def test_bad_calls_are_faults_with_a_short_message(text, kind):
    action = parse_action(text)
    assert isinstance(action, Fault) and action.kind is kind
    assert len(action.message) < 120


def test_text_without_either_is_no_action():
    assert parse_action("<answer>unclosed") == NoAction()


@pytest.mark.parametrize(
    ("text", "good"),
    [
        (f"<think>a</think>\n{CALL}", True),
        ("<think>a</think><answer>7</answer>", True),
        ("<answer>7</answer>", False),
        (f"<think>a</think>{CALL}\n{CALL}", True),
        (f"<think>a</think>{CALL} and {CALL}", False),
        (f"<think>a</think>{CALL}<answer>7</answer>", False),
        ("<think>a</think><answer>7</answer> and more", False),
        ("<think>a<think></think><answer>7</answer>", False),
    ],
)
def test_well_formed_means_to_the_letter(text, good):
    assert is_well_formed(text) is good


numbers = st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=5), st.just(10**400))
boxes = st.one_of(st.lists(numbers, max_size=6), numbers)
arguments = st.fixed_dictionaries(
    {},
    optional={
        "bbox_2d": boxes, "label": numbers, "img_idx": numbers, "img_idxs": boxes, "question": numbers,
        "answer": numbers, "extra": numbers,
    },
)  # fmt: skip
calls = st.builds(
    lambda name, fields: "<tool_call>" + json.dumps({"name": name, "arguments": fields}) + "</tool_call>",
    st.sampled_from(["image_zoom_in_tool", "focus_images_tool", "rm -rf", "<|image_pad|>", "reset", "_box"]),
    arguments,
)
pieces = [*'<>/{}[]",:|_ 0123456789.-eE\\\n\x1b', "tool_call", "answer", "think", "<|im_end|>", "<|image_pad|>"]
junk = st.lists(st.sampled_from(pieces), max_size=60).map("".join)


class Scripted:
    """A policy that says one given text, then answers."""

    def __init__(self, text):
        self.text = text

    def reply(self, conversations, *, max_tokens):
        return [Reply(self.text if len(c.messages) == 2 else "<answer>1</answer>") for c in conversations]


@settings(max_examples=10_000, deadline=None)
@given(st.one_of(calls, junk, st.builds("<tool_call>{}</tool_call>".format, junk)))
def test_ten_thousand_malformed_outputs_neither_raise_nor_bring_control_tokens_back(small_task, text):
    (episode,) = play(Scripted(text), [small_task], environment_factory=environment, limits=Limits(max_turns=3))
    for turn in episode.turns:
        if turn.observation is not None:
            assert "<|" not in turn.observation.text
            assert len(turn.observation.text) < 200


@pytest.fixture(scope="module")
def small_task():
    from PIL import Image

    from fovea.tasks import Task

    return Task("s", (Image.new("RGB", (64, 48), "red"),), "Which?", "1")


def environment():
    limits = PixelLimits(16 * 16, 64 * 64, 16)
    return FocusEnvironment(ViewSettings(Frame.PER_MILLE, limits, limits))
