"""Arms and checkpoints are each an evaluation of their own, which goes on where it stopped."""

import json
import shutil
import sys

import pytest

from environments.arguments import EpisodeArguments
from evaluation import evaluate, history
from evaluation.arguments import EvaluationArguments
from evaluation.discover import ARMS, HISTORY, OWN, FoundRun, evaluations_to_compare, find_runs
from evaluation.figures import _histories
from fovea.config import ConfigError
from fovea.data.task_files import save_tasks
from fovea.models.names import TINY
from fovea.runs.directory import RunDirectory
from fovea.runs.records import Sample, append
from synthesis.shapes import make_tasks

EPISODES = EpisodeArguments(max_turns=2, max_tokens_per_turn=8, crop_min_pixels=4096, crop_max_pixels=5120)


@pytest.fixture
def training(tmp_path):
    """The folder of a training that has kept two checkpoints."""
    for step in (10, 2):
        shutil.copytree(TINY, tmp_path / "rl" / f"checkpoint-{step}")
    return tmp_path / "rl"


def test_each_checkpoint_is_played_in_each_arm_and_drawn(training, tmp_path, capsys, monkeypatch):
    arms = "with_tool,without_tool,schema_only"
    save_tasks(make_tasks(num_tasks=4, seed=1), tmp_path / "tasks")
    words = [
        "eval", str(training), "--all_checkpoints", "--arms", arms, "--dataset_name", str(tmp_path / "tasks"),
        "--output_dir", str(training / "history"), "--max_turns", "2", "--max_tokens_per_turn", "8",
        "--crop_min_pixels", "4096", "--crop_max_pixels", "5120",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", words)
    evaluate.main()
    said = capsys.readouterr().out
    assert said.index("after 2 steps with_tool") < said.index("after 10 steps with_tool")
    content = json.loads((training / "history" / HISTORY).read_text())
    assert list(content) == ["2", "10"] and set(content["10"]["accuracy"]) == set(arms.split(","))
    assert set(content["2"]["terms"]) == {"call gain", "schema gain", "call harm", "schema harm"}
    kept = {path: path.read_bytes() for path in training.rglob("samples.jsonl")}
    assert len(kept) == 6
    evaluate.main()
    assert kept == {path: path.read_bytes() for path in training.rglob("samples.jsonl")}
    drawn = _histories([FoundRun("rl", training, {}, None)])
    assert len(drawn) == 2 and "accuracy by training step" in drawn[0] and "what the tool did" in drawn[1]


def test_arms_of_a_run_are_found_the_one_with_the_tool_first(tmp_path):
    for arm in ("without_tool", "with_tool"):
        folder = tmp_path / "sft" / "arms" / arm
        RunDirectory(folder).write_start(evaluation={"tools": ARMS[arm].get("tools", "true")}, episodes={})
        append(folder / "samples.jsonl", [Sample(task_id="q", question="?", reference="7", score=1.0)])
    [run] = find_runs([tmp_path / "sft"])
    assert list(run.evaluations) == ["arms/with_tool", "arms/without_tool"]
    assert evaluations_to_compare(tmp_path / "sft" / "arms")[OWN].name == "with_tool"
    with pytest.raises(SystemExit, match=r"name its own folder, .*arms"):
        evaluations_to_compare(tmp_path / "sft")


def test_a_training_without_checkpoints_is_refused(tmp_path):
    arguments = EvaluationArguments(model_name_or_path=str(tmp_path), output_dir=str(tmp_path), all_checkpoints=True)
    with pytest.raises(ConfigError, match=r"checkpoint-\*"):
        history.play_history(arguments, EPISODES)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"arms": ["with_tool,other"]}, "the arms are with_tool"),
        ({"arms": ["with_tool", "with_tool"]}, "each once"),
        ({"arms": []}, "each once"),
        ({"arms": ["with_tool"], "prompt": "direct"}, "choose prompt and tools"),
        ({"arms": ["with_tool"], "view_sizes_px": [64]}, "choose prompt and tools"),
        ({"tools": "absent", "prompt": "direct"}, "for the protocol"),
        ({"tools": "absent", "force": "zoom"}, "takes away"),
        ({"all_checkpoints": True, "view_sizes_px": [64]}, "one too many"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        EvaluationArguments(output_dir="out", **options)


def test_arms_are_named_with_commas_or_apart():
    for words in (["with_tool,single_pass"], ["with_tool", "single_pass"]):
        assert EvaluationArguments(output_dir="out", arms=words).arms == ["with_tool", "single_pass"]
    assert set(ARMS) == {"with_tool", "without_tool", "schema_only", "single_pass"}
