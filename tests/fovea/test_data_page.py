"""The examples of docs/data.md are true."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from fovea.answers import score
from fovea.boxes import Frame, Framing
from fovea.data.columns import TaskError
from fovea.data.references import checked
from fovea.tasks import AnswerKind, Task

PAGE = (Path(__file__).parent.parent.parent / "docs" / "data.md").read_text()
EXAMPLES = re.findall(r"^\| (\w+) \| (.+?) \| (.+?) \| (refused|[\d.]+) \|$", PAGE, re.MULTILINE)


def test_the_page_has_examples_of_every_kind():
    assert {kind for kind, *_ in EXAMPLES} == {kind.value for kind in AnswerKind}


@pytest.mark.parametrize(("kind", "reference", "answer", "expected"), EXAMPLES, ids=lambda value: value[:20])
def test_an_example_of_the_page(kind, reference, answer, expected):
    choices = ("red", "blue", "green") if kind == "choice" else ()
    images = (Image.new("RGB", (1000, 500)),)
    task = Task("t", images, "q?", json.loads(reference), AnswerKind(kind), choices=choices)
    if expected == "refused":
        with pytest.raises(TaskError):
            checked(task)
    else:
        assert score(checked(task), answer, Framing(Frame.PER_MILLE)) == pytest.approx(float(expected))
