"""The released rules of MIMIC give the released code's verdicts, and the corrected ones those of a careful reader."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from evaluation.mimic import corrected, f1, pooled_f1, released
from fovea.tasks import AnswerKind, Task

RECORD = json.loads(Path(__file__).with_name("mimic_verdicts.json").read_text())
KIND_OF = {"counting": "counting", "listing": "listing", "common": "common", "oddone": "odd"}


def task_of(kind, truth, present=()):
    answer = truth.split(", ") if kind == "listing" else truth
    return Task("", (), "", answer, AnswerKind.TEXT, metadata={"family": kind, "present": present})


@pytest.mark.parametrize("number", range(len(RECORD["cases"])))
def test_the_released_rule_gives_the_released_codes_verdicts(number):
    case = RECORD["cases"][number]
    replies = RECORD["replies"]["counting" if case["task"] == "counting" else "names"]
    assert len(replies) >= 300
    task = task_of(KIND_OF[case["task"]], case["truth"])
    said = [round(released(task, reply), 6) for reply in replies]
    differ = [
        (reply, ours, theirs)
        for reply, ours, theirs in zip(replies, said, case["verdicts"], strict=True)
        if ours != theirs
    ]
    assert not differ and len(set(said)) > 1


def test_lists_are_pooled_and_their_first_item_never_matches():
    said = ("dog, cat", "cat, dog, cup", None)
    turn = SimpleNamespace(text="cup")
    samples = [SimpleNamespace(answer=answer, reference=["dog", "cat"], turns=[turn]) for answer in said]
    assert pooled_f1(samples) == pytest.approx(f1([(1, 2, 2), (1, 3, 2), (0, 1, 2)])) == pytest.approx(2 * 2 / (6 + 6))
    assert f1([(0, 3, 2)]) == 0


@pytest.mark.parametrize(("reply", "by_released", "by_corrected"), [
    ("A man.", 1, 1), ("person", 1, 1), ("The man is a person", 1, 1), ("dog", 0, 0), ("man, dog", 1, 0),
    ("['man']", 1, 1),
])  # fmt: skip
def test_each_of_several_names_is_right(reply, by_released, by_corrected):
    task = Task("", (), "", ["Man", "Person"], AnswerKind.TEXT, metadata={"family": "odd", "present": ["Man", "Dog"]})
    assert (released(task, reply), corrected(task, reply)) == (by_released, by_corrected)


@pytest.mark.parametrize(("kind", "truth", "reply", "verdict"), [
    ("counting", "5", "There are 5 dogs.", 1), ("counting", "5", "5 or 6", 0), ("counting", "5", "Five.", 1),
    ("counting", "0", "none", 1), ("counting", "5", "15", 0), ("counting", "5", "two dogs and three dogs", 0),
    ("common", "dog", "A dog.", 1), ("common", "dog", "dogs", 1), ("common", "dog", "hot dog", 0),
    ("common", "dog", "dog and cat", 0), ("common", "hot dog", "The answer is hot dog", 1),
    ("common", "dog", "doge", 0),
    ("common", "bus", "Buses", 1), ("odd", "fire hydrant", "fire  hydrant", 1), ("odd", "cat", "cattle", 0),
    ("odd", "red cross", "the red cross, not the blue square", 0), ("odd", "red cross", "**Red cross**", 1),
    ("listing", "dog, cat", "cat and dog", 1), ("listing", "dog, cat", "dog", 2 / 3), ("listing", "dog, cat", "", 0),
    ("listing", "dog, cat", "- dog\n- cat\n- cup", 0.8), ("listing", "dog, cat", "Cat, DOG.", 1),
    ("listing", "dog, cat", "dogs, cats", 1), ("listing", "dog, cat", "The images show: dog, cat", 1),
    ("listing", "knife, mouse", "Knives\nMice", 1), ("listing", "dog, cat", "Dogs: 2, cats", 0.5),
    ("common", "knife", "knives", 1), ("common", "person", "People", 1), ("common", "skis", "A ski", 1),
    ("common", "mouse", "mice", 1), ("odd", "bus", "A bus", 1), ("common", "wine glass", "wine glasses", 1),
    ("common", "dog", "Dog, Sculpture, Lantern, Guitar", 0), ("common", "dog", "The common one is: dog", 1),
    ("common", "dog", "A dog, and in each image it runs through the park", 1),
])  # fmt: skip
def test_the_corrected_rule_reads_carefully(kind, truth, reply, verdict):
    present = ("red cross", "blue square") if "red" in truth else ()
    assert corrected(task_of(kind, truth, present), reply) == pytest.approx(verdict)
