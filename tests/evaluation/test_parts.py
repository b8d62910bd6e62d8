"""Several processes play what one would; what a killed evaluation left in parts is not lost and not played twice."""

import os
import subprocess
from dataclasses import replace

import pytest

from evaluation.arguments import EvaluationArguments
from evaluation.played import put_in_order
from evaluation.playing import evaluate, refuse_folder
from fovea.config import ConfigError
from fovea.data.task_files import save_tasks
from fovea.runs.directory import RunDirectory
from fovea.runs.records import SAMPLES, Sample, append, read_samples
from synthesis.shapes import make_tasks


def some(id, number=0, score=1.0):
    return Sample(task_id=id, sample=number, question="?", reference="7", answer="7", score=score)


def test_parts_are_joined_in_the_order_of_one_process(tmp_path):
    append(tmp_path / SAMPLES, [some("a"), some("b")])
    append(tmp_path / "samples.1.part.jsonl", [some("e"), some("c"), some("a", 1)])
    append(tmp_path / "samples.0.part.jsonl", [some("b", score=0.0), some("d"), some("gone")])
    with (tmp_path / "samples.0.part.jsonl").open("a") as file:
        file.write('{"id": "f", "sam')
    put_in_order(tmp_path, dict.fromkeys("abcdef", "hash"))
    found = [(sample.task_id, sample.sample, sample.score) for sample in read_samples(tmp_path)]
    assert found == [
        ("a", 0, 1.0), ("b", 0, 1.0), ("c", 0, 1.0), ("d", 0, 1.0), ("e", 0, 1.0), ("gone", 0, 1.0), ("a", 1, 1.0),
    ]  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == [SAMPLES]
    text = (tmp_path / SAMPLES).read_text()
    put_in_order(tmp_path, dict.fromkeys("abcdef", "hash"))
    assert (tmp_path / SAMPLES).read_text() == text


def test_an_evaluation_goes_on_from_the_parts_of_a_killed_one(tiny, episode_arguments, tmp_path):
    tasks = make_tasks(num_tasks=6, seed=4)
    whole = EvaluationArguments(output_dir=str(tmp_path / "whole"), prompt="direct", batch_size=2)
    evaluate(tiny, tasks, whole, episode_arguments)
    lines = (tmp_path / "whole" / SAMPLES).read_text().splitlines(True)
    cut = replace(whole, output_dir=str(tmp_path / "cut"))
    evaluate(tiny, tasks[:2], cut, episode_arguments)
    (tmp_path / "cut" / "samples.1.part.jsonl").write_text("".join(lines[2:4]))
    evaluate(tiny, tasks, cut, episode_arguments)
    assert sorted((tmp_path / "cut" / SAMPLES).read_text().splitlines(True)) == sorted(lines)


@pytest.mark.parametrize("prompt", ["protocol", "direct"])
def test_what_is_sampled_does_not_hang_on_what_is_played_beside_it(tiny, episode_arguments, tmp_path, prompt):
    """Batches of one, three or all, and an evaluation that goes on behind a killed one."""
    tasks, limits = make_tasks(num_tasks=6, seed=4), replace(episode_arguments, max_turns=3, max_tokens_per_turn=16)
    settings = EvaluationArguments(output_dir="", prompt=prompt, temperature=2.0, num_samples=2)

    def samples(name, batch_size, *parts):
        arguments = replace(settings, output_dir=str(tmp_path / name), batch_size=batch_size)
        for part in parts:
            evaluate(tiny, part, arguments, limits)
        return {(sample.task_id, sample.sample): sample for sample in read_samples(tmp_path / name)}

    alone = samples("alone", 1, tasks)
    assert len({tuple(turn.text for turn in sample.turns) for sample in alone.values()}) > 6
    assert alone == samples("few", 4, tasks) == samples("all", 64, tasks) == samples("cut", 4, tasks[3:], tasks)


def test_an_evaluation_out_of_time_says_how_far_it_came_and_goes_on(tiny, episode_arguments, tmp_path, capsys):
    tasks = make_tasks(num_tasks=4, seed=4)
    arguments = EvaluationArguments(output_dir=str(tmp_path), batch_size=2, max_minutes=1e-6)
    for expected in (1, 2, 3, 4):
        assert evaluate(tiny, tasks, arguments, replace(episode_arguments, max_tokens_per_turn=8)).n >= expected
        arguments = replace(arguments, max_minutes=1e-6 if expected < 3 else None)
    assert "of 4 episodes: the same command goes on" in capsys.readouterr().out
    with pytest.raises(ValueError, match="different questions"):
        replace(arguments, max_minutes=1.0, arms=["with_tool"])


def test_parts_of_other_settings_are_refused(tmp_path, episode_arguments):
    arguments = EvaluationArguments(output_dir=str(tmp_path))
    RunDirectory(tmp_path).write_start(evaluation=arguments, episodes=episode_arguments)
    append(tmp_path / "samples.0.part.jsonl", [some("a")])
    with pytest.raises(ConfigError, match="other settings"):
        refuse_folder(replace(arguments, temperature=1.0), episode_arguments)


WATCHED = """
from evaluation import playing
from evaluation.evaluate import main
from fovea.processes import process_state

append = playing.append

def said(path, samples):
    state = process_state()
    print(f"process {state.process_index} of {state.num_processes} plays", flush=True)
    append(path, samples)

playing.append = said
main()
"""


@pytest.mark.slow
def test_two_processes_score_what_one_does(tmp_path):
    save_tasks(make_tasks(num_tasks=9, seed=4), tmp_path / "tasks")
    words = ["--dataset_name", str(tmp_path / "tasks"), "--batch_size", "2", "--num_samples", "2", "--temperature", "1",
             "--max_turns", "2", "--max_tokens_per_turn", "24", "--crop_min_pixels", "4096",
             "--crop_max_pixels", "5120"]  # fmt: skip
    (tmp_path / "watched.py").write_text(WATCHED)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for number in ("1", "2"):
        launch = ["torchrun", "--nproc_per_node", number, str(tmp_path / "watched.py")]
        command = [*launch, "tiny", *words, "--output_dir", str(tmp_path / number)]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert result.returncode == 0, result.stderr[-3000:]
        assert result.stdout.count("| all | 9 |") == 1
        assert [result.stdout.count(f"process {rank} of {number} plays") > 0 for rank in (0, 1)] == [
            True,
            number == "2",
        ]
    one, two = ((tmp_path / number / SAMPLES).read_text() for number in ("1", "2"))
    assert one == two and one.count("\n") == 18
    names = [sorted(path.name for path in (tmp_path / number).iterdir()) for number in ("1", "2")]
    assert names[0] == names[1]


def test_an_evaluation_of_weights_that_were_trained_since_is_refused(tiny, episode_arguments, tmp_path, monkeypatch):
    tasks = make_tasks(num_tasks=2, seed=4)
    arguments = EvaluationArguments(output_dir=str(tmp_path), prompt="direct")
    first = evaluate(tiny, tasks, arguments, episode_arguments)
    assert evaluate(tiny, tasks, arguments, episode_arguments) == first
    monkeypatch.setattr("evaluation.playing.weights_mark", lambda name: "other")
    with pytest.raises(ConfigError, match="before it was trained anew: use another --output_dir"):
        evaluate(tiny, tasks, arguments, episode_arguments)
