"""A played episode as a line of samples.jsonl, scored by our rule and by published ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluation.benchmarks import BENCHMARKS
from evaluation.scoring import verdicts
from fovea.answers import constant_of, readable
from fovea.episodes import Episode
from fovea.runs.records import Sample
from rewards.accuracy import accuracy


def sample_of(episode: Episode, number: int, *, task_hash: str | None = None) -> Sample:
    """The `number`-th sample of the episode's task."""
    score = accuracy(episode.task, episode)
    if episode.answer is None:
        why = f"no answer: {episode.stop_reason.value}"
    else:
        why = f"{episode.task.kind.value}: {episode.answer!r} against {readable(episode.task)!r}"
    return Sample.of(
        episode,
        sample=number,
        family=episode.task.family,
        score=score,
        why=why,
        constant=constant_of(episode.task),
        task_hash=task_hash,
        **_published(episode, score),
    )


def _published(episode: Episode, score: float) -> Mapping[str, Any]:
    """`scores` by rule, `within` and `cluster` of a public benchmark. Its rules read a last turn without tags too."""
    benchmark = BENCHMARKS.get(str(episode.task.metadata.get("benchmark")))
    if benchmark is None:
        return {}
    reply = episode.answer if episode.answer is not None else episode.turns[-1].text
    scores = {"strict": score, **verdicts(episode.task, reply)}
    group = benchmark.averaged_within
    metadata = episode.task.metadata
    return {"scores": scores, "within": metadata[group] if group else None, "cluster": metadata.get("cluster")}
