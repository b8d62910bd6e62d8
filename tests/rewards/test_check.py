"""`fovea rewards test` tells honest rewards from those that pay for nothing."""

import pytest

from rewards.check import main, remarks, sample_episodes, sample_task
from rewards.registry import REWARDS, load_reward
from rewards.trl_adapter import score

MINE = """
def same(task, episode):
    return 1.0

def wordy(task, episode):
    return episode.num_tokens / 100

def upside_down(task, episode):
    return float(episode.answer == "3")

def busy(task, episode):
    return float(episode.num_zooms > 0)

def looks_once(task, episode):
    return 1.0 if episode.num_zooms == 1 else 0.25 if episode.num_zooms else 0.1

def broken(task, episode):
    return episode.no_such_thing
"""


def paid(name):
    episodes = sample_episodes(sample_task())
    return dict(zip(episodes, score(load_reward(name), list(episodes.values())), strict=True))


@pytest.mark.parametrize("name", [name for name in REWARDS if name != "judge"])
def test_shipped_rewards_pay_no_trick_for_its_answer(name):
    found = remarks(paid(name))
    assert found == [] or (name != "accuracy" and "weigh it below a reward that reads the answer" in found[0])


def test_accuracy_pays_right_answers_alone():
    assert {name for name, value in paid("accuracy").items() if value} == {
        name for name in sample_episodes(sample_task()) if name.startswith("right")
    }


@pytest.mark.parametrize(
    ("function", "remark"),
    [
        ("same", "pays every episode alike"),
        ("wordy", "in many words"),
        ("looks_once", "pays a wrong answer as a right one"),
        ("looks_once", "'trick: wrong, four zooms' is paid more than some right answer"),
        ("upside_down", "more than any right one"),
        ("busy", "'never answers, only zooms' is paid as much"),
    ],
)
def test_what_looks_like_a_mistake_is_said(tmp_path, capsys, function, remark):
    (tmp_path / "mine.py").write_text(MINE)
    main(["test", f"{tmp_path}/mine.py:{function}"])
    assert remark in capsys.readouterr().out


def test_a_reward_that_raises_is_named(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    with pytest.raises(SystemExit, match=r"broken raised AttributeError"):
        main(["test", f"{tmp_path}/mine.py:broken"])
