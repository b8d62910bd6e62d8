import json

import pytest

from evaluation.arguments import EvaluationArguments
from evaluation.evaluate import evaluate, summarize
from synthesis.shapes import make_tasks


@pytest.fixture(scope="module")
def tasks():
    return make_tasks(num_tasks=6, seed=21)


def test_an_evaluation_writes_one_scored_sample_per_task(tiny, tasks, episode_arguments, tmp_path):
    summary = evaluate(tiny, tasks, EvaluationArguments(output_dir=str(tmp_path), max_tasks=6), episode_arguments)
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [task.id for task in tasks]
    assert {"score", "why", "turns", "answer", "family"} <= rows[0].keys()
    assert summary["n"] == 6 and json.loads((tmp_path / "summary.json").read_text()) == summary


def test_a_stopped_evaluation_goes_on_where_it_left_off(tiny, tasks, episode_arguments, tmp_path):
    arguments = EvaluationArguments(output_dir=str(tmp_path / "whole"), batch_size=3)
    evaluate(tiny, tasks, arguments, episode_arguments)
    whole = (tmp_path / "whole" / "samples.jsonl").read_text()
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "samples.jsonl").write_text("\n".join(whole.splitlines()[:3]) + "\n")
    evaluate(tiny, tasks, EvaluationArguments(output_dir=str(tmp_path / "cut"), batch_size=3), episode_arguments)
    assert (tmp_path / "cut" / "samples.jsonl").read_text() == whole


def test_several_samples_a_task_are_averaged():
    base = {"family": "read", "reference": "7", "stop_reason": "answered", "num_zooms": 1, "num_tokens": 10}
    rows = [{"id": "a", "score": 1.0, **base}, {"id": "a", "score": 0.0, **base}, {"id": "b", "score": 1.0, **base}]
    summary = summarize(rows)
    assert (summary["n"], summary["accuracy"]) == (2, 0.75)
