"""The time of an evaluation is summed over all its starts, under the setting that played most of it."""

import json
from dataclasses import replace

import pytest

from evaluation.arguments import EvaluationArguments
from evaluation.compare import compare, table
from evaluation.evaluated import load
from evaluation.pace import PACE, Setting, pace_of
from evaluation.playing import evaluate, setting_of, timed
from fovea.runs.records import SAMPLES, Sample, append
from synthesis.shapes import make_tasks

ROW = {"engine": "Transformers", "device": "CPU, 1 thread", "batch_size": 64, "processes": 1}


def write(folder, *rows):
    (folder / PACE).write_text("".join(json.dumps(ROW | row) + "\n" for row in rows))


def test_all_starts_of_the_player_that_played_most_count(tmp_path):
    assert pace_of(tmp_path) is None
    write(
        tmp_path,
        {"episodes": 10, "seconds": 5.0},
        {"episodes": 30, "seconds": 3.0},
        {"episodes": 9, "seconds": 90.0, "batch_size": 1},
    )
    pace = pace_of(tmp_path)
    assert pace.seconds == pytest.approx(0.2) and str(pace.setting) == "Transformers, CPU, 1 thread, 64 at a time"
    assert str(Setting("vLLM", "NVIDIA H200", 1, 2)) == "vLLM, NVIDIA H200, one at a time, 2 processes"


def test_evaluations_note_their_pace_and_are_compared_by_it(tiny, tmp_path, episode_arguments):
    tasks = make_tasks(num_tasks=4, seed=5)
    for name in ("a", "b"):
        arguments = EvaluationArguments(output_dir=str(tmp_path / name), prompt="direct", batch_size=2)
        evaluate(tiny, tasks[:2], arguments, episode_arguments)
        evaluate(tiny, tasks, arguments, episode_arguments)
        evaluate(tiny, tasks, arguments, episode_arguments)
    rows = [json.loads(line) for line in (tmp_path / "a" / PACE).read_text().splitlines()]
    assert [row["episodes"] for row in rows] == [2, 2] and all(row["seconds"] > 0 for row in rows)
    assert pace_of(tmp_path / "a").setting == setting_of(arguments)
    comparison = compare(tmp_path / "a", tmp_path / "b")
    expected = sum(row["seconds"] for row in rows) / 4
    assert comparison["runs"][str(tmp_path / "a")]["seconds"] == pytest.approx(expected)
    assert f"seconds an episode by {setting_of(arguments)}" in table(comparison)
    (tmp_path / "b" / PACE).unlink()
    assert "seconds" not in compare(tmp_path / "a", tmp_path / "b")["runs"][str(tmp_path / "b")]


def test_seconds_of_several_benchmarks_are_of_their_episodes(tmp_path):
    for name, episodes, seconds in (("large", 800, 1600.0), ("small", 100, 1000.0)):
        (tmp_path / name).mkdir()
        append(tmp_path / name / SAMPLES, [Sample(task_id="a", score=0.0)])
        write(tmp_path / name, {"episodes": episodes, "seconds": seconds})
    assert load(tmp_path).summary()["seconds"] == pytest.approx(2600 / 900)


def test_an_interrupted_start_counts_too(tmp_path):
    arguments = EvaluationArguments(output_dir=str(tmp_path))
    append(tmp_path / SAMPLES, [Sample(task_id="before", score=0.0)])
    with pytest.raises(KeyboardInterrupt), timed(tmp_path, arguments):
        append(tmp_path / SAMPLES, [Sample(task_id="one", score=0.0)])
        append(tmp_path / "samples.1.part.jsonl", [Sample(task_id="two", score=0.0)])
        raise KeyboardInterrupt
    with timed(tmp_path, arguments):
        pass
    assert [json.loads(line)["episodes"] for line in (tmp_path / PACE).read_text().splitlines()] == [2]


def test_an_endpoint_plays_elsewhere(tmp_path):
    arguments = EvaluationArguments(output_dir=str(tmp_path))
    assert setting_of(replace(arguments, openai_base_url="http://there/v1")).device == "elsewhere"
