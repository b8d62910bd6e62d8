"""Successes of a run become traces without a model; what cannot be played again does not."""

import json
from dataclasses import replace

import pytest

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.play import play
from environments.policies.oracle import OraclePolicy
from environments.trace_files import read_traces
from evaluation.harvest import balanced, harvest
from fovea.boxes import Frame
from fovea.config import ConfigError
from fovea.data.task_files import load_tasks, save_tasks
from fovea.runs.directory import RunDirectory
from fovea.runs.records import ROLLOUTS, Rollout
from synthesis.shapes import make_tasks

EPISODES = EpisodeArguments(crop_min_pixels=64 * 64, crop_max_pixels=80 * 64)


@pytest.fixture
def run(tiny, tmp_path):
    """A training in which an oracle has solved eight tasks, each twice alike, and one wrongly."""
    save_tasks(make_tasks(num_tasks=9, seed=3), tmp_path / "tasks")
    tasks = load_tasks(tmp_path / "tasks")
    directory = RunDirectory(tmp_path / "run")
    directory.write_start(
        script={"dataset_name": str(tmp_path / "tasks")}, episodes=EPISODES, model={"model_name_or_path": "tiny"}
    )
    factory = environment_factory(EPISODES, tiny)
    episodes = play(OraclePolicy(Frame.PER_MILLE), tasks, environment_factory=factory, limits=EPISODES.limits())
    rollouts = [Rollout.of(one, step=0, rewards={"accuracy": float(n < 8)}) for n, one in enumerate(episodes)]
    held_out = [replace(rollout, mode="eval", task_id=f"held-{n}") for n, rollout in enumerate(rollouts)]
    directory.add_rollouts([*rollouts, *rollouts, *held_out])
    return directory.path


def test_each_success_is_a_trace_once_with_the_crops_that_it_saw(run, tmp_path):
    table = harvest(run, tmp_path / "out", model=None, max_traces=None, max_per_task=2)
    assert "8 traces of 27 episodes, 8 different ones right" in table
    traces = list(read_traces(tmp_path / "out"))
    assert len(traces) == 8 and all(trace["messages"][-1]["role"] == "assistant" for trace in traces)
    calls = sum("<tool_call>" in m["content"] for t in traces for m in t["messages"] if m["role"] == "assistant")
    assert sum(len(trace["images"]) for trace in traces) == 8 + calls


def test_traces_are_taken_by_turns_of_family_and_zooms():
    def records(family, zooms, count):
        return [(Rollout(task_id=f"{family}{zooms}{n}", step=0, num_zooms=zooms), family) for n in range(count)]

    pairs = [*records("a", 1, 50), *records("a", 2, 2), *records("b", 0, 3)]
    some, families = zip(*pairs, strict=True)
    chosen = list(balanced(some, families, 1))[:8]
    assert [r.task_id[:2] for r in chosen] == ["a1", "a2", "b0", "a1", "a2", "b0", "a1", "b0"]
    same = [replace(record, task_id="one") for record in some]
    assert len(list(balanced(same, families, 2))) == 2


def test_episodes_that_come_out_otherwise_are_dropped_with_the_reason(run, tmp_path):
    lines = [json.loads(line) for line in (run / ROLLOUTS).read_text().splitlines()[:8]]
    for line in lines:
        for turn in line["turns"]:
            turn["text"] = turn["text"].replace("<think>", "<thought>")
    (run / ROLLOUTS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ConfigError, match="none of 8 episodes becomes a trace: 8 out of format"):
        harvest(run, tmp_path / "out", model=None, max_traces=None, max_per_task=2)
    assert not (tmp_path / "out").exists()


def test_a_run_that_was_shown_noise_is_refused(run, tmp_path):
    info = json.loads((run / "run.json").read_text())
    info["settings"]["episodes"]["crops"] = "noise"
    (run / "run.json").write_text(json.dumps(info))
    with pytest.raises(ConfigError, match="played with crops noise"):
        harvest(run, tmp_path / "out", model=None, max_traces=None, max_per_task=2)
