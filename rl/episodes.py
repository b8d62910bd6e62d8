"""The numbers of an episode that a training logs."""

from __future__ import annotations

from collections import Counter

from fovea.episodes import Episode, FaultKind, StopReason


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
