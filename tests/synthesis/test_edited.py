"""Edited pictures: only what was named changes, and the new answer is the right one there."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from evaluation import edits
from evaluation.discover import find_runs
from evaluation.evidence import evidence
from evaluation.stored import StoredRun
from fovea.answers import score
from fovea.boxes import Box, Frame
from fovea.data.task_files import load_tasks, save_tasks
from fovea.episodes import Answer, Episode, StopReason, Turn
from fovea.images import open_image, pixels_under
from fovea.runs.directory import RunDirectory
from fovea.runs.records import SAMPLES, Sample, append
from fovea.tasks import Target, Task
from synthesis import edited
from synthesis.edited import scenes_to_edit, with_edits


def picture(seed=0, size=(120, 90)):
    pixels = np.random.default_rng(seed).integers(0, 255, size=(*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def task(*edits_of_it, box=(0.25, 0.25, 0.5, 0.75), image=None, id="a", **fields):
    targets = (Target(Box(*box, Frame.UNIT), 1),)
    images = (picture(9), image or picture())
    fields = {"answer": "3", **fields}
    return Task(id, images, "How many?", boxes=targets, metadata={"edits": list(edits_of_it)}, **fields)


def difference(before, after):
    """Pixels [height, width] by how much they differ, JPEG's own loss aside."""
    return np.abs(np.asarray(before, dtype=int) - np.asarray(open_image(after).convert("RGB"), dtype=int)).max(-1)


@pytest.mark.parametrize(
    "edit",
    [
        {"kind": "paint", "target": 0, "answer": "2"},
        {"kind": "recolour", "target": 0, "turn": 120, "answer": "2"},
        {"kind": "swap", "target": 0, "with": "b", "answer": "2"},
    ],
    ids=lambda edit: edit["kind"],
)
def test_an_edit_changes_its_box_alone(edit):
    flat = Image.new("RGB", (120, 90), (200, 40, 40))
    flat.paste((30, 60, 200), (30, 22, 60, 68))
    before = task(edit, image=flat)
    other = task(id="b", image=Image.new("RGB", (60, 60), (20, 220, 20)))
    kept, after = list(with_edits([before, other]))
    assert (kept.id, after.id, after.answer, kept.metadata) == ("a", "a-edit0", "2", {})
    assert after.metadata["edit"] == {"of": "a", "kind": edit["kind"], "was": "3"}
    assert after.images[0] is before.images[0]
    left, top, right, bottom = pixels_under(before.boxes[0].box, flat.size)
    changed = difference(flat, after.images[1])
    assert changed[top + 3 : bottom - 3, left + 3 : right - 3].min() > 40
    changed[top - 8 : bottom + 8, left - 8 : right + 8] = 0
    assert changed.max() < 12


def test_paint_takes_the_colours_around_also_at_an_edge():
    flat = Image.new("RGB", (120, 90), (90, 120, 150))
    flat.paste((255, 0, 0), (0, 0, 30, 30))
    before = task({"kind": "paint", "target": 0, "answer": "2"}, image=flat, box=(0, 0, 0.25, 1 / 3))
    _, after = with_edits([before])
    assert difference(Image.new("RGB", (120, 90), (90, 120, 150)), after.images[1]).max() < 12


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        ("paint", "write kind"),
        ({"kind": "erase", "target": 0, "answer": "2"}, "write kind"),
        ({"kind": "paint", "target": 0}, "write kind"),
        ({"kind": "paint", "target": 1, "answer": "2"}, "1 boxes"),
        ({"kind": "paint", "answer": "2"}, "target is None"),
        ({"kind": "recolour", "target": 0, "answer": "2"}, "turn is None"),
        ({"kind": "recolour", "target": 0, "turn": 360, "answer": "2"}, "turn is 360"),
        ({"kind": "swap", "target": 0, "with": "c", "answer": "2"}, "with is 'c'"),
        ({"kind": "paint", "target": 0, "answer": "3"}, "the edit changes nothing"),
        ({"kind": "digits", "target": 0, "answer": "2"}, "glyphs and digits"),
    ],
)
def test_an_edit_that_cannot_be_made_is_refused_by_name(edit, said):
    with pytest.raises(ValueError, match=said) as error:
        list(with_edits([task(edit)]))
    assert "task a, metadata.edits[0]" in str(error.value)


def test_a_box_of_the_whole_picture_cannot_be_painted_over():
    with pytest.raises(ValueError, match="nothing around it is left"):
        list(with_edits([task({"kind": "paint", "target": 0, "answer": "2"}, box=(0, 0, 1, 1))]))


def test_tasks_without_edits_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no task has"):
        list(with_edits([task()]))


def test_digits_of_scenes_are_redrawn_where_they_stand():
    made = list(with_edits(scenes_to_edit(16, seed=2)))
    assert len(made) == 32 and {one.family for one in made} >= {"read", "compare"}
    for before, after in zip(made[::2], made[1::2], strict=True):
        assert score(after, before.answer) == 0 and after.question == before.question
        image = open_image(before.images[0]).convert("RGB")
        changed = difference(image, after.images[0])
        for corners in before.metadata["glyphs"]:
            left, top, right, bottom = pixels_under(Box.of(corners, Frame.UNIT), image.size)
            margin = bottom - top
            assert changed[top:bottom, left:right].max() > 40
            changed[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = 0
        assert changed.max() < 60
    again = list(with_edits(scenes_to_edit(16, seed=2)))
    assert [(one.id, one.answer, one.images) for one in again] == [(one.id, one.answer, one.images) for one in made]


def answered(one, said):
    episode = Episode(one, (Turn("", Answer(said), None),), StopReason.ANSWERED)
    return Sample.of(episode, score=score(one, said), family=one.family)


def test_a_model_that_reads_follows_and_one_that_does_not_stays(tmp_path, monkeypatch, capsys):
    """Three planted models: one answers what is right now, one what was right before, one always 5."""
    monkeypatch.setattr(sys, "argv", ["edited", "--num_tasks", "8", "--output_dir", str(tmp_path / "tasks")])
    edited.main()
    tasks = load_tasks(tmp_path / "tasks")
    answers = {
        "reads": lambda one: one.answer,
        "remembers": lambda one: one.metadata.get("edit", {}).get("was", one.answer),
        "guesses": lambda one: "99",
    }
    for name, answer in answers.items():
        folder = tmp_path / name
        RunDirectory(folder).write_start(
            evaluation={"dataset_name": str(tmp_path / "tasks"), "output_dir": str(folder)}, episodes={}
        )
        played = [(one, answer(one)) for one in tasks]
        rows = [
            Sample.of(
                Episode(one, (Turn("", Answer(said), None),), StopReason.ANSWERED),
                score=score(one, said),
                family=one.family,
            )
            for one, said in played
        ]
        append(folder / SAMPLES, rows)
    found = {name: edits.outcomes(StoredRun(tmp_path / name, SAMPLES)) for name in answers}
    assert (found["reads"]["all"].follows, found["remembers"]["all"].stays) == (8, 8)
    assert found["guesses"]["all"].other == 8 and "right before" not in found["guesses"]
    assert found["remembers"]["right before"].n == 8
    [(heading, said)] = evidence(find_runs([tmp_path / "reads", tmp_path / "remembers"]))
    assert heading == "Edited pictures" and "| reads / evaluation | all | 8 | 1.000" in said
    names = [str(tmp_path / name) for name in answers]
    monkeypatch.setattr(sys, "argv", ["edits", *names, "--json", str(tmp_path / "out.json")])
    edits.main()
    assert "| 1.000 [" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())[names[1]]["all"]["stays"] == 8
    rest = (tmp_path / "reads" / SAMPLES).read_text().splitlines(True)
    (tmp_path / "reads" / SAMPLES).write_text("".join(rest[1:]))
    with pytest.raises(ValueError, match="play both"):
        edits.outcomes(StoredRun(tmp_path / "reads", SAMPLES))


def test_a_file_of_ones_own_is_edited(tmp_path, monkeypatch, capsys):
    edit = {"kind": "paint", "target": 0, "answer": "2"}
    save_tasks([task(edit), replace(task(), id="b")], tmp_path / "mine")
    words = ["edited", "--dataset_name", str(tmp_path / "mine"), "--output_dir", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", words)
    edited.main()
    assert "2 tasks, 1 of them edited" in capsys.readouterr().out
    assert [one.id for one in load_tasks(tmp_path / "out")] == ["a", "a-edit0"]
