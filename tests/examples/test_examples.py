"""The files that the guides show do what the guides say, and the guides show them as they are."""

import re
from pathlib import Path

import pytest

from environments.check import check_environment
from environments.play import play
from environments.policies.replay import Replay
from environments.seats import Limits
from examples.my_environment import Halves
from examples.my_rewards import fewest_zooms
from fovea.boxes import Box, Frame
from rewards.registry import RewardKind, load_reward
from rewards.trl_adapter import score

ROOT = Path(__file__).parents[2]
HERE = Box(0.1, 0.1, 0.4, 0.4, Frame.UNIT)


@pytest.mark.parametrize("guide", ["my_reward", "my_environment"])
def test_a_guide_shows_the_example_as_it_is(guide):
    text = (ROOT / "docs" / f"{guide}.md").read_text()
    name = re.search(r"`(examples/\w+\.py)`", text)[1]
    [block] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert block in (ROOT / name).read_text()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("right_and_brief", RewardKind.EPISODE), ("fewest_zooms", RewardKind.GROUP), ("not_too_long", RewardKind.TRL)],
)
def test_each_reward_is_of_its_kind_and_pays(name, kind, make_episode):
    reward = load_reward(f"{ROOT}/examples/my_rewards.py:{name}")
    assert reward.kind is kind
    paid = score(reward, [make_episode("7"), make_episode("3", regions=[HERE])])
    assert len(paid) == 2 and paid[0] == 1.0


def test_a_right_answer_is_worth_less_with_each_zoom_and_a_wrong_one_nothing(make_episode):
    reward = load_reward(f"{ROOT}/examples/my_rewards.py:right_and_brief")
    episodes = [make_episode("7"), make_episode("7", regions=[HERE]), make_episode("3")]
    assert score(reward, episodes) == pytest.approx([1.0, 1 / 1.1, 0.0])
    assert fewest_zooms(episodes[0].task, episodes) == [1.0, 0.0, 1.0]


def test_the_environment_resets_completely_and_answers_its_tool():
    check_environment(Halves, calls=[("look_at_half", {"side": "left"}), ("look_at_half", {"side": "up"})])


def test_an_episode_is_played_in_it(make_task):
    call = '<tool_call>{"name": "look_at_half", "arguments": {"side": "right"}}</tool_call>'
    [episode] = play(
        Replay([call, "<answer>7</answer>"]), [make_task()], environment_factory=Halves, limits=Limits(max_turns=2)
    )
    assert episode.turns[0].observation.text == "The right half." and episode.answer == "7"
