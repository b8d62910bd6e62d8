"""An episode as TRL's trainer takes it: columns for rewards, chat messages, and numbers to log."""

from __future__ import annotations

from collections import Counter
from typing import Any

from fovea.episodes import Episode, FaultKind, StopReason
from fovea.tasks import Task


def columns(task: Task) -> dict[str, Any]:
    """What TRL's own kind of reward function receives about a task, beside the completions."""
    prompt = [{"role": "user", "content": task.prompt}]
    return {"prompt": prompt, "question": task.question, "answer": task.answer, "choices": list(task.choices)}


def messages_of(episode: Episode) -> list[dict[str, str]]:
    """The chat messages of an episode after its prompt, texts only: pixels are not gathered across processes."""
    messages = []
    for turn in episode.turns:
        messages.append({"role": "assistant", "content": turn.text})
        if turn.observation is not None:
            messages.append({"role": "tool", "content": turn.observation.text})
    return messages


def numbers(episode: Episode) -> dict[str, float]:
    """The numbers of one episode whose means are logged."""
    kinds = Counter(fault.kind for fault in episode.faults)
    record = episode.record
    return {
        "zooms/rate": float(episode.num_zooms > 0),
        "zooms/mean": float(episode.num_zooms),
        "tokens/written": float(episode.num_tokens),
        "tokens/all": float(len(record.prompt_ids) + len(record.completion_ids)),
        **{f"stops/{reason.value}": float(episode.stop_reason is reason) for reason in StopReason},
        **{f"faults/{kind.value}": float(kinds[kind]) for kind in FaultKind},
    }
