"""Scores a finished run by other rewards: `fovea rescore RUN --reward_funcs accuracy ./mine.py:f --reward_weights 1 1`.

RUN is the folder of a training (episodes.jsonl) or of an evaluation (samples.jsonl). Its tasks are loaded as the run
loaded them; no model is. Rewards, advantages and rankings within groups are set beside those of the run's own rewards.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.stored import StoredRun, stored_run
from fovea.commands import finite, plain_parser
from fovea.episodes import Episode
from rewards.registry import Reward, RewardError, RewardKind, load_rewards
from rewards.totals import advantages, weighted_totals
from rewards.trl_adapter import score


def own_rewards(run: StoredRun) -> tuple[list[str], list[float] | None]:
    """The rewards and weights of a run; accuracy for an evaluation."""
    names = run.info.chosen("script").get("reward_funcs", ["accuracy"])
    return names, run.info.chosen("training").get("reward_weights")


def rescore(
    groups: Sequence[Sequence[Episode]], before: Sequence, after: Sequence, *, scale_rewards: str = "group",
    aggregation: str = "sum_then_normalize", steps: Sequence[Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Both rewards of every group, and how they differ; `before` and `after` are (rewards, weights).

    The other arguments are those of `rewards.totals.advantages`.
    """
    rows: list[dict[str, Any]] = [{"task_id": group[0].task.id} for group in groups]
    for when, (rewards, weights) in (("before", before), ("after", after)):
        paid = [
            np.array([score(reward, group) for reward in rewards], dtype=float)
            for group in tqdm(groups, desc=f"rewards {when}", leave=False)
        ]
        found = advantages(paid, weights, scale_rewards=scale_rewards, aggregation=aggregation, steps=steps)
        for row, sums, values in zip(rows, paid, found, strict=True):
            row |= {when: weighted_totals(sums, weights).tolist(), f"advantages_{when}": values.tolist()}
    old, new = (np.concatenate([row[f"advantages_{when}"] for row in rows]) for when in ("before", "after"))
    return {
        "num_episodes": len(old),
        "num_groups": len(rows),
        "scale_rewards": scale_rewards,
        "multi_objective_aggregation": aggregation,
        "mean_before": _mean(np.concatenate([row["before"] for row in rows])),
        "mean_after": _mean(np.concatenate([row["after"] for row in rows])),
        "silent_before": float(np.mean([not any(row["advantages_before"]) for row in rows])),
        "silent_after": float(np.mean([not any(row["advantages_after"]) for row in rows])),
        "turned": float(np.mean(np.sign(old) * np.sign(new) < 0)),
        "reranked": float(np.mean([_reranked(np.array(row["before"]), np.array(row["after"])) for row in rows])),
        "groups": rows,
    }


def _mean(rewards: np.ndarray) -> float:
    """Of the rollouts that were scored; 0 if none was."""
    known = rewards[~np.isnan(rewards)]
    return float(known.mean()) if len(known) else 0.0


def _reranked(before: np.ndarray, after: np.ndarray) -> bool:
    """Returns True if two rollouts of the group changed places in the ranking."""
    return bool((np.sign(before[:, None] - before) * np.sign(after[:, None] - after) < 0).any())


def table(result: dict[str, Any]) -> str:
    return "\n".join(
        [
            "| | the run's rewards | these |",
            "|---|---|---|",
            f"| mean reward | {result['mean_before']:.3f} | {result['mean_after']:.3f} |",
            f"| groups without a signal | {result['silent_before']:.1%} | {result['silent_after']:.1%} |",
            f"\nAdvantages as with scale_rewards {result['scale_rewards']}, {result['multi_objective_aggregation']}. "
            f"{result['num_episodes']} episodes in {result['num_groups']} groups: the advantage of "
            f"{result['turned']:.1%} changes its sign, in {result['reranked']:.1%} of groups some pair changes places.",
        ]
    )


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("run", help="folder of a training or an evaluation")
    parser.add_argument("--reward_funcs", nargs="+", required=True, help="as in training")
    parser.add_argument("--reward_weights", nargs="+", type=finite, help="one each (default: 1)")
    parser.add_argument("--json", type=Path, help="also write everything here, group by group")
    args = parser.parse_args()
    run = stored_run(Path(args.run))
    groups = run.groups(of_batches=True)
    try:
        before, after = _loaded(*own_rewards(run)), _loaded(args.reward_funcs, args.reward_weights)
        if any(record.environment_reward is not None for record in run.records):  # paid in training too
            own = Reward("environment", RewardKind.EPISODE, lambda task, episode: episode.environment_reward)
            before = [*before[0], own], [*before[1], 1.0]
        chosen = run.info.chosen("training")
        scale = str(chosen.get("scale_rewards", "group"))
        scale = {"true": "group", "false": "none"}.get(scale.lower(), scale)
        steps = [group.step for group in groups]
        how = str(chosen.get("multi_objective_aggregation", "sum_then_normalize"))
        result = rescore(list(groups.values()), before, after, scale_rewards=scale, aggregation=how, steps=steps)
    except (RewardError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(table(result))
    if args.json:
        for row in result["groups"]:
            row |= {when: [None if isnan(value) else value for value in row[when]] for when in ("before", "after")}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2) + "\n")


def _loaded(names: Sequence[str], weights: Sequence[float] | None) -> tuple[list[Reward], Sequence[float]]:
    weights = weights or [1.0] * len(names)
    if len(weights) != len(names):
        raise SystemExit(f"{len(weights)} reward_weights for {len(names)} reward_funcs: give one each")
    return load_rewards(names), weights


if __name__ == "__main__":
    main()
