"""Variants ask the same: boxes and right answers go with what moves, and what would ask otherwise is left out."""

import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from evaluation import consistency
from evaluation.stored import StoredRun
from fovea.answers import score
from fovea.boxes import Box, Frame
from fovea.data.task_files import load_tasks, save_tasks
from fovea.images import open_image
from fovea.placeholders import MARK
from fovea.runs.directory import RunDirectory
from fovea.runs.records import SAMPLES, Sample, append
from fovea.tasks import AnswerKind, Target, Task
from synthesis import varied
from synthesis.shapes.albums import make_albums
from synthesis.varied import KINDS, with_variants


def picture(level):
    return Image.new("RGB", (48, 32), (level, level, level))


def task(question="What is on the red plate?", number=3, **fields):
    images = tuple(picture(40 * place) for place in range(number))
    boxes = tuple(Target(Box(0, 0, 0.1 * (place + 1), 0.5, Frame.UNIT), place) for place in range(number))
    return Task("a", images, question, **{"answer": "fish", "boxes": boxes, **fields})


def kinds(*tasks, **options):
    made = list(with_variants(tasks, KINDS, **options))
    return {one.metadata["variant"]["kind"]: one for one in made if "variant" in one.metadata}


def test_boxes_and_foci_go_with_their_images():
    before = task(metadata={"foci": [[2], [0, 1]], "sub_questions": ["a", "b"], "sub_answers": ["c", "d"]})
    for seed in range(5):
        after = kinds(before, seed=seed)["images"]
        level = [one.getpixel((0, 0))[0] // 40 for one in after.images]
        assert sorted(level) == [0, 1, 2] != level
        assert [level[target.img_idx] for target in after.boxes] == [0, 1, 2]
        assert [target.box for target in after.boxes] == [target.box for target in before.boxes]
        assert [[level[image] for image in focus] for focus in after.metadata["foci"]] == [[2], [0, 1]]
        assert "sub_questions" not in after.metadata and after.answer == "fish"


@pytest.mark.parametrize("answer", ["B", "soup"])
def test_the_right_option_keeps_being_right(answer):
    choices = ("fish", "soup", "rice", "bread")
    before = task(kind=AnswerKind.CHOICE, choices=choices, answer=answer)
    for seed in range(5):
        after = kinds(before, seed=seed)["options"]
        assert sorted(after.choices) == sorted(choices) and after.choices != choices
        assert [score(after, choice) for choice in after.choices] == [float(one == "soup") for one in after.choices]


def test_a_distractor_stands_behind_the_others(tmp_path):
    after = kinds(task())["distractor"]
    assert after.images[:3] == kinds(task())["distractor"].images[:3] and len(after.images) == 4
    noise = np.asarray(open_image(after.images[3]), dtype=int)
    assert noise.shape == (32, 48, 3) and noise.std() > 40
    picture(7).save(tmp_path / "own.png")
    own = kinds(task(), pictures=[tmp_path / "own.png"])["distractor"]
    assert open_image(own.images[3]).getpixel((0, 0)) == (7, 7, 7)


@pytest.mark.parametrize(
    ("fields", "made"),
    [
        ({"number": 1}, set()),
        ({}, {"images", "distractor"}),
        ({"question": "What is in the second picture?"}, {"distractor"}),
        ({"question": "What is in image 2?"}, {"distractor"}),
        ({"question": "Which image shows a fish?"}, {"distractor"}),
        ({"question": "Which of the three images shows a fish?"}, set()),
        ({"question": "What differs between the left photo and the right one?"}, set()),
        ({"question": "Is there a fish in the image on the left?"}, {"distractor"}),
        ({"question": "Is there a fish in the final picture?"}, set()),
        ({"question": "What is shown in the last picture?"}, set()),
        ({"question": "Select the picture that shows a fish."}, {"distractor"}),
        ({"question": "Did the camera move left or right?", "answer": "left"}, {"distractor"}),
        ({"question": "Which is older?", "answer": "first"}, {"distractor"}),
        ({"question": "Do the pictures show the same person?"}, {"images"}),
        ({"question": "Are they identical?"}, {"images"}),
        ({"question": "What is the correct chronological order?"}, {"distractor"}),
        ({"question": "What is in the 3rd large frame?"}, {"distractor"}),
        ({"answer": "Image B"}, {"distractor"}),
        ({"question": "How many fish are there?"}, {"images"}),
        ({"question": "What do these images have in common?"}, {"images"}),
        ({"question": "Do all pictures show a fish?"}, {"images"}),
        ({"question": "Is the number of fish odd?"}, {"images"}),
        ({"question": "Is the main course fish?"}, {"images", "distractor"}),
    ],
    ids=lambda value: " ".join(sorted(value)) if isinstance(value, set) else str(value),
)
def test_what_would_ask_something_else_is_left_out(fields, made):
    assert set(kinds(task(**fields))) == made


OF_EACH_OTHER = (
    "none of the above",
    "both A and B",
    "All of these",
    "A or B",
    "Neither",
    "A & B",
    "(A) and (C)",
    "A, C",
    "D",
    "Only A",
)


@pytest.mark.parametrize("last", [*OF_EACH_OTHER, "rice", "a dog and a cat", "Vitamin A"])
def test_options_that_speak_of_each_other_stay(last):
    choices = ("fish", "soup", last)
    assert ("options" in kinds(task(kind=AnswerKind.CHOICE, choices=choices))) is (last not in OF_EACH_OTHER)


def test_options_that_the_question_lists_stay():
    choices = ("red", "blue")
    assert "options" not in kinds(
        task(question="Which is true? (A) red (B) blue", kind=AnswerKind.CHOICE, choices=choices, answer="red")
    )


def test_albums_are_varied_where_their_questions_allow_it():
    made = list(with_variants(make_albums(num_tasks=40, seed=1), KINDS))
    found = Counter((one.family, one.metadata["variant"]["kind"]) for one in made if "variant" in one.metadata)
    [read] = [one for one in made if one.id == "album-1-1-distractor"]
    number = len(read.images) - 1
    assert f"\nImage {number}: {MARK}\nWhich digit" in read.question and read.question.count(MARK) == number + 1
    assert found["read", "images"] and found["compare", "images"] and not found["find", "images"]
    assert not found["count", "distractor"] and not found["odd", "distractor"]


def test_consistency_is_of_meanings_and_counts_by_kind(tmp_path, monkeypatch, capsys):
    choices = ("fish", "soup", "rice", "bread")
    tasks = [replace(task(kind=AnswerKind.CHOICE, choices=choices, answer="soup"), id=str(n)) for n in range(4)]
    save_tasks(tasks, tmp_path / "before")
    words = ["--dataset_name", str(tmp_path / "before"), "--output_dir", str(tmp_path / "tasks"), "--kinds", "options"]
    monkeypatch.setattr(sys, "argv", ["fovea tasks varied", *words])
    varied.main()
    assert "4 of 4 tasks and their variants (4 options)" in capsys.readouterr().out
    run = RunDirectory(tmp_path / "run")
    run.write_start(evaluation={"dataset_name": str(tmp_path / "tasks"), "output_dir": ""}, episodes={})
    for one in load_tasks(tmp_path / "tasks"):
        number = one.id[0]
        # 0 names the same option by its letter, 1 sticks to a letter, 2 says its text, 3 does not answer.
        said = {"0": "ABCD"[one.choices.index("soup")], "1": "B", "2": "rice", "3": None}[number]
        append(tmp_path / "run" / SAMPLES, [Sample(task_id=one.id, answer=said, score=score(one, said or ""))])
    found = consistency.consistency(StoredRun(tmp_path / "run", SAMPLES))
    moved = next(one for one in load_tasks(tmp_path / "tasks") if one.id == "1-options")
    stays = moved.choices[1] == "soup"
    assert (found["options"].n, found["options"].same) == (4, 2 + stays)
    assert found["options"].accuracy_before == 0.5 and found["options"].accuracy_after == (2 if stays else 1) / 4
    assert "| options | 4 |" in consistency.table({"run": found})


def test_a_variant_without_its_task_is_refused(tmp_path):
    save_tasks(list(with_variants([task()], ["images"])), tmp_path / "tasks")
    RunDirectory(tmp_path / "run").write_start(
        evaluation={"dataset_name": str(tmp_path / "tasks"), "output_dir": ""}, episodes={}
    )
    append(tmp_path / "run" / SAMPLES, [Sample(task_id="a-images", answer="fish", score=1.0)])
    with pytest.raises(ValueError, match="without a: play both"):
        consistency.consistency(StoredRun(tmp_path / "run", SAMPLES))
