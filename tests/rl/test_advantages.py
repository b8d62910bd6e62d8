"""Advantages as `fovea rescore` computes them, beside those with which a training learned."""

import numpy as np
import pytest

from fovea.jsonl import read_jsonl
from fovea.runs.directory import RunDirectory
from rewards.registry import Reward, RewardKind
from rewards.totals import advantages

WEIGHTS = [0.6, 0.1, 0.3]
HOW = [
    {"scale_rewards": "group"},
    {"scale_rewards": "batch"},
    {"scale_rewards": "none"},
    {"multi_objective_aggregation": "normalize_then_sum"},
]


@pytest.mark.parametrize("how", HOW, ids=str)
def test_advantages_and_silent_groups_are_those_of_the_training(how, build, tmp_path, caplog):
    """Groups of two, some rewards that do not apply, rollouts that none scores, and a group that is paid alike."""
    payments = np.array(
        [
            [[1, 0, 2], [0, 0, 1]],
            [[1, 0, 1], [0, 6, 1]],  # sums that are equal, rewards that are not
            [[1, 1, 1], [1, 1, 1]],
            [[np.nan, 1, 0.5], [np.nan, 0, np.nan]],
            [[np.nan, np.nan, np.nan], [2, 1, 0]],
            [[np.nan, np.nan, np.nan], [np.nan, np.nan, np.nan]],
        ]
    )
    rows = payments.reshape(-1, 3)

    def paying(column):
        return lambda prompts, completions, **columns: [None if np.isnan(x) else x for x in rows[:, column]]

    rewards = [Reward(f"reward_{column}", RewardKind.TRL, paying(column)) for column in range(3)]
    size = dict(per_device_train_batch_size=len(rows), num_generations=2, num_tasks=len(payments))
    trainer = build(rewards, **size, reward_weights=WEIGHTS, max_steps=1, **how)
    trainer.run = RunDirectory(tmp_path)
    trainer.train()
    assert "All reward functions returned None" in caplog.text and "\\xff" not in caplog.text  # no bytes of pictures
    written = [record["advantage"] for record in read_jsonl(tmp_path / "episodes.jsonl")]
    options = {"aggregation" if name.startswith("multi") else name: value for name, value in how.items()}
    ours = np.concatenate(advantages([group.T for group in payments], WEIGHTS, **options))
    assert ours == pytest.approx(written, abs=1e-5)
    silent = [not group.any() for group in ours.reshape(-1, 2)]
    assert trainer.state.log_history[0]["frac_reward_zero_std"] == pytest.approx(np.mean(silent))
