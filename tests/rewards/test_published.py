"""Published rewards, by numbers worked out from their sources, and the files that weigh them."""

import pytest
import yaml

from fovea.boxes import Box, Frame
from fovea.config import CONFIGS
from rewards.registry import load_reward, score_episodes

HERE = Box(0.1, 0.1, 0.4, 0.4, Frame.UNIT)


@pytest.fixture
def pay(make_task, make_episode):
    """The payments of a preset for a group of (answer, zooms, well formed), whose right answer is 7."""

    def paid(preset, *rollouts):
        settings = yaml.safe_load((CONFIGS / "rewards" / f"{preset}.yaml").read_text())
        task = make_task()
        episodes = [
            make_episode(answer, task=task, regions=[HERE] * zooms, well_formed=formed)
            for answer, zooms, formed in rollouts
        ]
        parts = [score_episodes(load_reward(name), episodes) for name in settings["reward_funcs"]]
        weights = settings["reward_weights"]
        return [
            pytest.approx(sum(w * p for w, p in zip(weights, part, strict=True))) for part in zip(*parts, strict=True)
        ]

    return paid


RIGHT, RIGHT_ZOOM, WRONG, WRONG_ZOOM, BROKEN = (
    ("7", 0, True),
    ("7", 1, True),
    ("3", 0, True),
    ("3", 2, True),
    ("3", 0, False),
)


@pytest.mark.parametrize(
    ("preset", "rollouts", "expected"),
    [
        ("chain_of_focus_paper", [RIGHT, RIGHT_ZOOM, WRONG_ZOOM, WRONG, BROKEN], [1.0, 0.8, 0.1, 0.1, 0.0]),
        ("chain_of_focus_paper", [RIGHT_ZOOM, WRONG], [1.0, 0.1]),
        ("chain_of_focus_code", [RIGHT, RIGHT_ZOOM, WRONG_ZOOM, WRONG, BROKEN], [1.0, 0.8, 0.5, 0.1, 0.0]),
        ("chain_of_focus_code", [RIGHT_ZOOM, WRONG_ZOOM, WRONG], [1.0, 0.5, 0.1]),
        ("chain_of_focus_code", [WRONG_ZOOM, WRONG, BROKEN], [0.1, 0.1, 0.0]),
        ("deepeyes", [RIGHT, RIGHT_ZOOM, WRONG_ZOOM, BROKEN], [0.8, 2.0, 0.0, -0.2]),
        # 1 of 5 zooms: (0.3 - 0.2) / 2 / 0.2 * 0.25 = 0.0625, less 0.05 for the second zoom
        ("pixel_reasoner", [WRONG_ZOOM, RIGHT, WRONG, WRONG, WRONG], [0.0125, 1.0, 0.0, 0.0, 0.0]),
        ("pixel_reasoner", [RIGHT_ZOOM, WRONG_ZOOM], [1.0, -0.05]),
        ("accuracy_only", [RIGHT, WRONG_ZOOM], [1.0, 0.0]),
    ],
)
def test_a_preset_pays_what_its_source_says(pay, preset, rollouts, expected):
    assert pay(preset, *rollouts) == expected
