"""What would other rewards have paid? `fovea rescore RUN --reward_funcs accuracy ./mine.py:f --reward_weights 0.9 0.1`.

RUN is the folder of a training (episodes.jsonl) or of an evaluation (samples.jsonl). Its tasks are loaded as the run
loaded them; no model is. Rewards, advantages and rankings within groups are set beside those of the run's own rewards.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.stored import StoredRun
from fovea.episodes import Episode
from rewards.registry import Reward, RewardError, load_rewards
from rewards.trl_adapter import score


def own_rewards(run: StoredRun) -> tuple[list[str], list[float] | None]:
    """The rewards and weights of a run; accuracy for an evaluation."""
    settings = run.settings
    names = settings.get("script", {}).get("reward_funcs", ["accuracy"])
    return names, settings.get("training", {}).get("reward_weights")


def totals(rewards: Sequence[Reward], weights: Sequence[float], group: Sequence[Episode]) -> np.ndarray:
    """Weighted sums [episodes]; a reward that does not apply (None) adds nothing, as in TRL."""
    paid = np.array([score(reward, group) for reward in rewards], dtype=float)
    return np.nansum(paid * np.array(weights)[:, None], axis=0)


def advantages(rewards: np.ndarray) -> np.ndarray:
    """Rewards of a group less their mean, over their standard deviation (GRPO, as TRL computes it)."""
    if len(rewards) < 2:
        return np.zeros_like(rewards)
    return (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)


def rescore(groups: Sequence[Sequence[Episode]], before: Sequence, after: Sequence) -> dict[str, Any]:
    """Both rewards of every group, and how they differ; `before` and `after` are (rewards, weights)."""
    rows = []
    for group in tqdm(groups, desc="groups", leave=False):
        old, new = (totals(rewards, weights, group) for rewards, weights in (before, after))
        rows.append(
            {
                "task_id": group[0].task.id,
                "before": old.tolist(),
                "after": new.tolist(),
                "advantages_before": advantages(old).tolist(),
                "advantages_after": advantages(new).tolist(),
            }
        )
    old, new = (np.concatenate([row[f"advantages_{when}"] for row in rows]) for when in ("before", "after"))
    return {
        "num_episodes": len(old),
        "num_groups": len(rows),
        "mean_before": float(np.concatenate([row["before"] for row in rows]).mean()),
        "mean_after": float(np.concatenate([row["after"] for row in rows]).mean()),
        "silent_before": float(np.mean([np.ptp(row["before"]) == 0 for row in rows])),
        "silent_after": float(np.mean([np.ptp(row["after"]) == 0 for row in rows])),
        "turned": float(np.mean(np.sign(old) * np.sign(new) < 0)),
        "reranked": float(np.mean([_reranked(np.array(row["before"]), np.array(row["after"])) for row in rows])),
        "groups": rows,
    }


def _reranked(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether some pair of a group's rollouts changed places."""
    return bool((np.sign(before[:, None] - before) * np.sign(after[:, None] - after) < 0).any())


def table(result: dict[str, Any]) -> str:
    return "\n".join(
        [
            "| | the run's rewards | these |",
            "|---|---|---|",
            f"| mean reward | {result['mean_before']:.3f} | {result['mean_after']:.3f} |",
            f"| groups without a signal | {result['silent_before']:.1%} | {result['silent_after']:.1%} |",
            f"\n{result['num_episodes']} episodes in {result['num_groups']} groups: the advantage of "
            f"{result['turned']:.1%} changes its sign, in {result['reranked']:.1%} of groups some pair changes places.",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a training or an evaluation")
    parser.add_argument("--reward_funcs", nargs="+", required=True, help="as in training")
    parser.add_argument("--reward_weights", nargs="+", type=float, help="one each (default: 1)")
    parser.add_argument("--json", type=Path, help="also write everything here, group by group")
    args = parser.parse_args()
    run = StoredRun(Path(args.run))
    groups = run.groups()
    try:
        before, after = _loaded(*own_rewards(run)), _loaded(args.reward_funcs, args.reward_weights)
        result = rescore(groups, before, after)
    except (RewardError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(table(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def _loaded(names: Sequence[str], weights: Sequence[float] | None) -> tuple[list[Reward], Sequence[float]]:
    weights = weights or [1.0] * len(names)
    if len(weights) != len(names):
        raise SystemExit(f"{len(weights)} reward_weights for {len(names)} reward_funcs: give one each")
    return load_rewards(names), weights


if __name__ == "__main__":
    main()
