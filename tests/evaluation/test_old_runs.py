"""Runs that version 0.1 wrote are still compared, reported and rescored, with the numbers it gave."""

import json
import re
import shutil
from pathlib import Path

import pytest

from evaluation import report, rescore
from evaluation.compare import compare
from evaluation.discover import find_runs
from fovea.runs.records import SCHEMA, Sample, read_rollouts, read_run, read_samples, read_summary

OLD = Path(__file__).parents[1] / "data" / "runs_of_0_1"


def test_a_comparison_comes_out_as_it_did(monkeypatch):
    monkeypatch.chdir(OLD)
    result = compare("base/evaluation", "sft/evaluation", "rl/evaluation")
    assert json.loads(json.dumps(result)) == json.loads(Path("comparison.json").read_text())


def test_a_report_shows_all_of_them(monkeypatch, tmp_path):
    monkeypatch.chdir(OLD)
    monkeypatch.setattr("sys.argv", ["fovea report", "base", "sft", "rl", "--output", str(tmp_path / "report.html")])
    report.main()
    text = (tmp_path / "report.html").read_text()
    rows = re.findall(r"<tr><td>(\w+)</td><td>(evaluation\w*)</td><td>8</td><td>([\d.]+)</td>", text)
    assert rows == [
        ("base", "evaluation", "0.125"),
        ("sft", "evaluation", "0.250"),
        ("rl", "evaluation", "0.250"),
        ("rl", "evaluation_noise", "0.250"),
    ]
    assert len(re.findall(r'id="picture-\w+"', text)) == 12 and "62b60e3" in text


def test_a_run_without_its_settings_is_shown_without_images(monkeypatch, tmp_path, capsys):
    shutil.copytree(OLD / "sft", tmp_path / "sft")
    (tmp_path / "sft" / "evaluation" / "run.json").unlink()
    monkeypatch.setattr("sys.argv", ["fovea report", str(tmp_path / "sft"), "--output", str(tmp_path / "report.html")])
    report.main()
    assert "has no run.json" in capsys.readouterr().out
    assert "<td>0.250</td>" in (tmp_path / "report.html").read_text()


def test_a_training_is_rescored(monkeypatch, tmp_path):
    monkeypatch.chdir(OLD)
    words = ["fovea rescore", "rl", "--reward_funcs", "accuracy", "--json", str(tmp_path / "rescored.json")]
    monkeypatch.setattr("sys.argv", words)
    rescore.main()
    result = json.loads((tmp_path / "rescored.json").read_text())
    assert (result["num_episodes"], result["num_groups"], result["mean_after"]) == (32, 4, 0.21875)
    assert result["mean_before"] == pytest.approx(0.29375)


def test_records_are_those_of_the_files():
    [run] = find_runs([OLD / "rl"])
    assert list(run.evaluations) == ["evaluation", "evaluation_noise"] and run.training is not None
    rollouts, samples = read_rollouts(OLD / "rl"), read_samples(OLD / "rl" / "evaluation")
    assert len(rollouts) == 32 and rollouts[0].rewards == {"accuracy": 0.0, "format": 1.0}
    assert rollouts[0].turns[0].observation.crops[0].region.x1 == 0.81
    summary = read_summary(OLD / "rl" / "evaluation")
    assert summary.n == len(samples) == 8 and summary.accuracy == 0.25
    assert read_run(OLD / "rl").chosen("script")["reward_funcs"] == ["accuracy", "format"]


def test_a_newer_schema_is_refused_by_line(tmp_path):
    line = {"schema": SCHEMA + 1, "task_id": "a", "score": 1.0}
    (tmp_path / "samples.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(ValueError, match=r"line 1 of .*samples\.jsonl cannot be read.*update Fovea"):
        read_samples(tmp_path)


def test_a_sample_reads_back_as_it_was_written(make_episode):
    sample = Sample.of(make_episode("7"), score=1.0, family="read", scores={"strict": 1.0}, why="so")
    assert Sample.from_json(json.loads(json.dumps(sample.to_json()))) == sample
