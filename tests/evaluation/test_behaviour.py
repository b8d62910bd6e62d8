"""Counts over episodes, on episodes made by hand and on a stored evaluation."""

import json
import sys

import pytest
from PIL import Image

from evaluation import behaviour
from evaluation.behaviour import Behaviour, seen, table
from evaluation.stored import stored_run
from fovea.boxes import Box, Frame
from fovea.data.task_files import save_tasks
from fovea.episodes import Answer, Call, Crop, Episode, Fault, FaultKind, Focus, Observation, StopReason, Turn
from fovea.runs.directory import RunDirectory
from fovea.runs.records import Rollout, Sample, append
from fovea.tasks import Target, Task

TARGET = Box(0.2, 0.2, 0.4, 0.4, Frame.UNIT)
HIT, PART, ELSEWHERE = (
    Box(*corners, Frame.UNIT) for corners in ((0.1, 0.1, 0.5, 0.5), (0.3, 0.2, 0.7, 0.4), (0.6, 0.6, 0.9, 0.9))
)
CHAIN = {"sub_questions": ["a?", "b?"], "foci": [[1], [0]], "sub_answers": ["1", "2"]}


def episode(*parts, answer="7", reference="7", foci=None, family="read"):
    """Parts are regions that were zoomed into, images that were focused on, or "fault"."""
    turns, boxes = [], () if foci else (Target(TARGET, 0),)
    for part in parts:
        if part == "fault":
            turns.append(Turn("", Fault(FaultKind.BAD_JSON, "no"), Observation("no")))
        elif isinstance(part, Box):
            turns.append(Turn("", Call("zoom", {}), Observation("", (Crop(1, 0, part, (64, 64)),))))
        else:
            turns.append(Turn("", Call("focus", {}), Observation("", (), (Focus(part, "a?"),))))
    turns.append(Turn("", Answer(answer), None))
    metadata = {"family": family, **(CHAIN if foci else {})}
    task = Task("t", (Image.new("RGB", (8, 8)),) * 2, "?", reference, boxes=boxes, metadata=metadata)
    return Episode(task, tuple(turns), StopReason.ANSWERED)


def counted(*episodes):
    return behaviour.behaviour([seen(one, float(one.answer == one.task.answer)) for one in episodes])


def test_zooms_hit_miss_and_recover():
    found = counted(
        episode(HIT),
        episode(PART, HIT),
        episode(ELSEWHERE, answer="4"),
        episode("fault", answer="4"),
        episode(answer="4"),
    )
    assert found.calls_by_turn == (0.8, 0.2)
    assert (found.first_hit, found.recovered) == (pytest.approx(1 / 3), 0.5)
    assert (found.right_if_hit, found.right_if_missed) == (1.0, 0.0)
    assert found.target_share == pytest.approx(0.25)
    assert (found.constant, found.constant_share, found.constant_right) == ("4", 0.6, 0.0)
    assert found.first_focus is found.found is found.right_if_found is None


def test_foci_are_counted_against_the_tasks_chain():
    found = counted(
        episode((1,), (0,), foci=True),
        episode((0,), (1,), foci=True, answer="4"),
        episode((0, 1), foci=True),
        episode((1,), foci=True, answer="4"),
        episode(foci=True),
    )
    assert (found.first_focus, found.found) == (0.5, 0.75)
    assert found.right_if_found == pytest.approx(2 / 3) and found.first_hit is None


def test_an_evaluation_is_counted_by_family_and_a_training_by_steps(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "evaluation"
    tasks = [
        Task(f"t{n}", (Image.new("RGB", (8, 8), (n, 0, 0)),), "?", "7", boxes=(Target(TARGET, 0),),
             metadata={"family": "read" if n else "compare"})
        for n in range(3)
    ]  # fmt: skip
    save_tasks(tasks, tmp_path / "tasks")
    named = {"dataset_name": str(tmp_path / "tasks"), "output_dir": str(folder)}
    RunDirectory(folder).write_start(evaluation=named, episodes={})
    rows = [Sample.of(Episode(task, episode(HIT).turns, StopReason.ANSWERED), score=1.0) for task in tasks]
    append(folder / "samples.jsonl", rows)
    monkeypatch.setattr(sys, "argv", ["analyse", str(folder), "--json", str(tmp_path / "out.json")])
    behaviour.main()
    said = capsys.readouterr().out
    assert "| compare | 1 | 1.000 | 1.00 | 1.000 |" in said and "| read | 2 |" in said
    training = tmp_path / "rl"
    RunDirectory(training).write_start(script=named, episodes={})
    rollouts = [
        Rollout.of(Episode(tasks[step % 3], episode(part).turns, StopReason.ANSWERED), step=step)
        for step, part in enumerate((ELSEWHERE, ELSEWHERE, HIT, HIT, HIT))
    ]
    held_out = Rollout.of(Episode(tasks[0], episode(ELSEWHERE).turns, StopReason.ANSWERED), step=4, mode="eval")
    replaced = Rollout.of(held_out.episode(tasks[0]), step=4, rewards={"accuracy": 0.0})
    append(training / "episodes.jsonl", [*rollouts, held_out, replaced])
    found = behaviour.analyse(stored_run(training))
    hits = [found[f"all, steps {step} to {step}"].first_hit for step in range(5)]
    assert hits == [0.0, 0.0, 1.0, 1.0, 1.0] and found["compare, steps 3 to 3"].n == 1
    assert found["all"].n == 5
    assert json.loads((tmp_path / "out.json").read_text())[str(folder)]["all"]["first_hit"] == 1.0


def test_a_table_has_a_cell_for_each_column():
    nothing = Behaviour(1, 0.0, (), None, None, None, None, None, None, None, None, "a|b", 1.0, 0.0)
    head, _, row = table({"all": nothing}).splitlines()
    assert head.count("|") == row.replace("\\|", "").count("|")
