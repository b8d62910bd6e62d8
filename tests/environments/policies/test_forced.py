"""Baselines that decide how an episode begins leave the rest of it to the policy."""

import pytest

from environments.factories import environment_factory
from environments.play import Sampling, play
from environments.policies.forced import OPENINGS, ForcedPolicy
from environments.policies.transformers import TransformersPolicy
from environments.rendering import Renderer
from environments.seats import Limits
from fovea.episodes import Answer, Call, Fault
from synthesis.shapes import make_tasks


@pytest.fixture
def played(tiny, episode_arguments):
    def play_forced(what, *, keep_caches=True):
        renderer = Renderer(tiny.processor)
        policy = TransformersPolicy(tiny.network, renderer, Sampling(0), keep_caches=keep_caches)
        return play(
            ForcedPolicy(policy, renderer, OPENINGS[what]),
            make_tasks(num_tasks=4, seed=5),
            environment_factory=environment_factory(episode_arguments, tiny),
            limits=Limits(3, 40, 256),
            renderer=renderer,
        )

    return play_forced


@pytest.mark.parametrize(("what", "actions"), [("zoom", (Call, Fault)), ("answer", Answer)])
def test_an_episode_begins_as_it_is_made_to(played, what, actions):
    for episode in played(what):
        first = episode.turns[0]
        assert first.text.startswith(OPENINGS[what]) and first.num_tokens <= 40
        record = episode.record
        assert len(record.completion_ids) == len(record.loss_mask)
        assert isinstance(first.action, actions) or not first.text.endswith(("</tool_call>", "</answer>"))


def test_forced_episodes_are_the_same_with_and_without_kept_caches(played):
    fast, slow = played("zoom"), played("zoom", keep_caches=False)
    assert [episode.record.completion_ids for episode in fast] == [episode.record.completion_ids for episode in slow]
