"""Outcomes of tasks, kept line by line; traces, samples and a summary are made of them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from environments.traces import trace_record
from fovea.config import ConfigError
from fovea.data.task_files import file_name
from fovea.episodes import Episode
from fovea.jsonl import append_lines, cut_torn_line, read_jsonl
from fovea.runs.records import SAMPLES, Sample, append
from fovea.server import RefusedRequest
from fovea.tasks import Task
from synthesis.agent.roles import COSTS_HEAD, Usage, cost_row

OUTCOMES = "outcomes.jsonl"
FREE_SETTINGS = re.compile(r"output_dir|max_tasks|num_workers|image_cache_gib|num_scenes|retry_failed|max_tokens")
"""Settings that may change when the agent goes on."""
AT_SIGHT, BY_ZOOM = "answered at sight", "answered by zooming"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A line of outcomes.jsonl."""

    task_id: str
    task_hash: str
    reason: str
    """`AT_SIGHT`, `BY_ZOOM`, or why the task was given up."""
    is_refused: bool = False
    """True if the task was given up because an endpoint refused a request."""
    num_zooms: int = 0
    requests: Mapping[str, int] = field(default_factory=dict)
    """By role."""
    tokens: Mapping[str, int] = field(default_factory=dict)
    prompt_tokens: Mapping[str, int] = field(default_factory=dict)
    trace: Mapping[str, Any] | None = None
    sample: Mapping[str, Any] | None = None
    """The episode of the trace as a line of samples.jsonl, for report and viewer."""

    @property
    def is_trace(self) -> bool:
        return self.trace is not None

    @property
    def num_tokens(self) -> int:
        """Of its prompts and answers."""
        return sum(self.tokens.values()) + sum(self.prompt_tokens.values())

    @classmethod
    def given_up(cls, task: Task, task_hash: str, reason: Exception, usage: Usage) -> Outcome:
        return cls(
            task_id=task.id,
            task_hash=task_hash,
            reason=str(reason)[:300],
            is_refused=isinstance(reason, RefusedRequest),
            requests=usage.requests,
            tokens=usage.tokens,
            prompt_tokens=usage.prompt_tokens,
        )

    @classmethod
    def of(cls, episode: Episode, task_hash: str, usage: Usage, folder: Path) -> Outcome:
        """The outcome of a solved task; writes the images of its trace."""
        task = episode.task
        sample = Sample.of(episode, family=task.family, score=1.0, why="verified", task_hash=task_hash)
        return cls(
            task_id=task.id,
            task_hash=task_hash,
            reason=BY_ZOOM if episode.num_zooms else AT_SIGHT,
            num_zooms=episode.num_zooms,
            requests=usage.requests,
            tokens=usage.tokens,
            prompt_tokens=usage.prompt_tokens,
            trace=trace_record(episode, folder, name=file_name(task.id)),
            sample=sample.to_json(),
        )


def append_outcome(folder: Path, outcome: Outcome) -> None:
    """Writes a line, after the files that it names."""
    append_lines(folder / OUTCOMES, [json.dumps(asdict(outcome), default=str) + "\n"])


def read_outcomes(folder: Path, hashes: Mapping[str, str]) -> dict[str, Outcome]:
    """The outcomes in a folder by task; a line that a killed process tore off is taken off the file.

    Raises:
        ConfigError: if one of them is of another question, reference or image than the task of its id is now.
    """
    cut_torn_line(folder / OUTCOMES)
    outcomes = {line["task_id"]: Outcome(**line) for line in read_jsonl(folder / OUTCOMES)}
    for outcome in outcomes.values():
        if hashes.get(outcome.task_id, outcome.task_hash) != outcome.task_hash:
            raise ConfigError(
                f"task {outcome.task_id} is not what {folder / OUTCOMES} was made of (question, reference or images "
                "have changed): use another --output_dir, or delete it"
            )
    return outcomes


def finish(folder: Path, outcomes: Sequence[Outcome]) -> str:
    """Writes traces.jsonl and samples.jsonl in the order of the tasks, and summary.md. Returns the summary."""
    traces = [outcome for outcome in outcomes if outcome.is_trace]
    with (folder / "traces.jsonl").open("w") as file:
        file.writelines(json.dumps(outcome.trace) + "\n" for outcome in traces)
    (folder / SAMPLES).unlink(missing_ok=True)
    append(folder / SAMPLES, (Sample.from_json(outcome.sample) for outcome in traces if outcome.sample))
    text = summary(outcomes)
    (folder / "summary.md").write_text(text + "\n")
    return text


def summary(outcomes: Sequence[Outcome]) -> str:
    """Yield by reason, zooms, and what each role cost a trace, as Markdown tables."""
    traces = [outcome for outcome in outcomes if outcome.is_trace]
    lines = [f"\n{len(traces)} traces of {len(outcomes)} tasks ({len(traces) / max(1, len(outcomes)):.0%})\n",
             "| outcome | tasks |", "|---|---|"]  # fmt: skip
    reasons = Counter(outcome.reason.partition(":")[0] for outcome in outcomes)
    lines += [f"| {reason} | {count} |" for reason, count in reasons.most_common()]
    requests, tokens, prompts = (
        dict(sum((Counter(getattr(outcome, what)) for outcome in outcomes), Counter()))
        for what in ("requests", "tokens", "prompt_tokens")
    )
    usage = Usage(requests, tokens, prompts)
    if usage.requests:
        lines += [COSTS_HEAD, *(cost_row(role, usage, len(traces)) for role in sorted(usage.requests))]
    if traces:
        lines.append(f"\n{fmean(outcome.num_zooms for outcome in traces):.2f} zooms a trace")
    return "\n".join(lines)
