"""The numbers of an episode that a training logs, and what its environment paid."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from fovea.answers.edits import EDIT, OUTCOMES, outcome
from fovea.episodes import Call, Episode, Fault, FaultKind, StopReason


def numbers(episode: Episode) -> dict[str, float]:
    """The numbers of one episode whose means are logged."""
    kinds = Counter(fault.kind for fault in episode.faults)
    record = episode.record
    return {
        "zooms/rate": float(episode.num_zooms > 0),
        "zooms/mean": float(episode.num_zooms),
        "focus/rate": float(bool(episode.foci)),
        "focus/images": float(len({image for focus in episode.foci for image in focus.images})),
        "tokens/images": float(episode.num_image_tokens or 0),
        "tokens/written": float(episode.num_tokens),
        "tokens/all": float(len(record.prompt_ids) + len(record.completion_ids)),
        **{f"stops/{reason.value}": float(episode.stop_reason is reason) for reason in StopReason},
        **{f"faults/{kind.value}": float(kinds[kind]) for kind in FaultKind},
    }


def edit_outcomes(episodes: Sequence[Episode]) -> list[str]:
    """Metrics of the answers to edited pictures, of the episodes on such tasks (`fovea tasks edited`)."""
    return [
        outcome(episode.task, episode.answer, episode.framing) for episode in episodes if EDIT in episode.task.metadata
    ]


def edit_numbers(outcomes: Sequence[str]) -> dict[str, list[float]]:
    """For each outcome whether an answer is one, of all processes' answers to edited pictures; means are shares."""
    return {f"edits/{one}": [float(outcome == one) for outcome in outcomes] for one in OUTCOMES if outcomes}


def completion_of(episode: Episode) -> tuple[int, bool, int, int]:
    """The numbers of a rollout that TRL's metrics read: tokens written, truncation, tool calls, failed ones."""
    truncated = episode.stop_reason in (StopReason.TURN_TOKENS, StopReason.EPISODE_TOKENS)
    calls = sum(isinstance(action, (Call, Fault)) for turn in episode.turns for action in turn.actions)
    return sum(episode.record.loss_mask), truncated, calls, len(episode.faults)


def completion_numbers(rows: Sequence[tuple[int, bool, int, int]]) -> dict[str, float]:
    """TRL's own metrics of completions and tools, of all processes' rollouts."""
    lengths = [length for length, *_ in rows]
    ended = [length for length, truncated, *_ in rows if not truncated] or [0]
    calls, failed = (sum(row[place] for row in rows) for place in (2, 3))
    return {
        "completions/mean_length": fmean(lengths),
        "completions/min_length": float(min(lengths)),
        "completions/max_length": float(max(lengths)),
        "completions/clipped_ratio": fmean(truncated for _, truncated, *_ in rows),
        "completions/mean_terminated_length": fmean(ended),
        "completions/min_terminated_length": float(min(ended)),
        "completions/max_terminated_length": float(max(ended)),
        "tools/call_frequency": calls / len(rows),
        "tools/failure_frequency": failed / calls if calls else 0.0,
    }
