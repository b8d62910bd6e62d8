"""Other rewards on stored episodes: what they would have paid, and whom they would have preferred."""

import json

import pytest

from evaluation.rescore import main, own_rewards, rescore
from evaluation.stored import stored_run
from fovea.boxes import Box, Frame
from fovea.data.task_files import save_tasks
from fovea.runs.directory import RunDirectory
from fovea.runs.records import Rollout
from rewards.registry import Reward, RewardKind, load_reward
from synthesis.shapes import make_tasks

HERE = Box(0.1, 0.1, 0.4, 0.4, Frame.UNIT)
MINE = """
async def longest(completions, question, **columns):
    assert len(question) == len(completions)
    return [float(len(messages)) for messages in completions]
"""


@pytest.fixture
def run(tmp_path, make_episode):
    """Two groups of a training: one with a right rollout that zoomed, the other silent."""
    tasks = make_tasks(num_tasks=2, seed=4, families={"read": 1.0})
    save_tasks(tasks, tmp_path / "tasks")
    folder = RunDirectory(tmp_path / "run")
    folder.write_start(
        script={"dataset_name": str(tmp_path / "tasks"), "reward_funcs": ["accuracy", "format"], "max_minutes": None},
        training={"reward_weights": [0.9, 0.1]},
    )
    right, *_ = (str(task.answer) for task in tasks)
    for task, answers in zip(tasks, [(right, "no"), ("no", "no")], strict=True):
        for answer in answers:
            regions = [HERE] * 2 if answer == right else []
            folder.add_rollouts([Rollout.of(make_episode(answer, task=task, regions=regions), step=0)])
    return folder.path


def test_groups_and_rewards_come_back_as_they_were(run):
    groups = list(stored_run(run).groups().values())
    assert [len(group) for group in groups] == [2, 2]
    assert groups[0][0].num_zooms == 2 and groups[0][0].task.boxes
    assert own_rewards(stored_run(run)) == (["accuracy", "format"], [0.9, 0.1])


def test_a_reward_that_prefers_others_is_seen_to(run, tmp_path):
    names, weights = own_rewards(stored_run(run))
    (tmp_path / "mine.py").write_text(MINE)
    others = [load_reward("zoom_cost"), load_reward(f"{tmp_path}/mine.py:longest")]
    result = rescore(
        list(stored_run(run).groups().values()), ([load_reward(name) for name in names], weights), (others, [1.0, 0.0])
    )
    assert result["groups"][0]["before"] == pytest.approx([1.0, 0.1])
    assert result["groups"][0]["after"] == [-2.0, 0.0]
    assert (result["silent_before"], result["reranked"], result["turned"]) == (0.5, 0.5, 0.5)


def test_groups_that_no_reward_scores_are_without_a_signal(run):
    nothing = Reward("nothing", RewardKind.EPISODE, lambda task, episode: None)
    result = rescore(list(stored_run(run).groups().values()), ([nothing], [1.0]), ([nothing], [1.0]))
    assert (result["silent_after"], result["mean_after"]) == (1.0, 0.0)


def test_only_what_a_batch_held_is_scored_again(run, make_episode):
    """Held-out rollouts of the same step, and a group that another one has replaced, teach nothing."""
    folder, task = RunDirectory(run), make_tasks(num_tasks=2, seed=4, families={"read": 1.0})[0]
    wrong = make_episode("no", task=task)
    folder.add_rollouts([Rollout.of(wrong, step=0, mode="eval", rewards={"accuracy": 0.0})] * 3)
    folder.add_rollouts([Rollout.of(wrong, step=1, rewards={"accuracy": 0.0})] * 2)
    groups = stored_run(run).groups(of_batches=True)
    assert [len(group) for group in groups.values()] == [2, 2]


def test_the_command_prints_and_writes(run, tmp_path, monkeypatch, capsys):
    words = ["fovea", str(run), "--reward_funcs", "accuracy", "--json", str(tmp_path / "new" / "r.json")]
    monkeypatch.setattr("sys.argv", words)
    main()
    assert "| groups without a signal | 50.0% | 50.0% |" in capsys.readouterr().out
    assert json.loads((tmp_path / "new" / "r.json").read_text())["num_episodes"] == 4


def test_mistakes_on_the_command_line_leave_one_clear_line(run, tmp_path, monkeypatch):
    for folder, name, message in (
        (run, "acuracy", "no reward is called 'acuracy'"),
        (tmp_path / "no", "accuracy", "neither"),
    ):
        monkeypatch.setattr("sys.argv", ["fovea", str(folder), "--reward_funcs", name])
        with pytest.raises(SystemExit, match=message):
            main()
    assert not (tmp_path / "no").exists()


def test_a_folder_without_episodes_and_a_lost_task_are_refused(run, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"neither episodes\.jsonl nor"):
        stored_run(tmp_path).groups()
    path = run / "episodes.jsonl"
    path.write_text(path.read_text().replace('"task_id": "', '"task_id": "lost-'))
    with pytest.raises(SystemExit, match="is not among the tasks of its run"):
        list(stored_run(run).groups().values())
    (tmp_path / "tasks" / "tasks.jsonl").unlink()
    with pytest.raises(SystemExit, match="run this in the folder"):
        list(stored_run(run).groups().values())


def test_episodes_are_not_scored_on_another_task_that_has_their_id_now(run, tmp_path):
    path = tmp_path / "tasks" / "tasks.jsonl"
    stored = path.read_text()
    rows = [json.loads(line) for line in stored.splitlines()]
    for change in ({"question": "Another?"}, {"answer": "10"}):
        path.write_text("".join(json.dumps(row | change) + "\n" for row in rows))
        with pytest.raises(SystemExit, match="has changed since it was played"):
            stored_run(run).groups()
    path.write_text(stored)
    assert stored_run(run).groups()
