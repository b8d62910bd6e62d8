"""Is a file of traces fit to be learned from? `fovea data check traces.jsonl --model_name_or_path MODEL`.

Every trace is examined alone, and all together: tags, answers, calls that the environment would refuse, crops that do
not show their box, answers told before they were seen, tokens, doubles, and the frame of boxes. Files of other projects
are read as `fovea data convert` reads them. Problems are named by line; the exit status is 1 if there is any. Notes
(traces that look alike, answers that the last thought does not hold) are shown and do not count. `--json` writes all to
a file, and `--page` draws an example of each kind.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

from environments.arguments import EpisodeArguments
from environments.traces import TraceError, to_trace
from fovea.config import parse
from fovea.data.columns import TaskError
from fovea.data.task_files import tasks_from
from fovea.images import ImageError
from fovea.models.loading import load_outline
from synthesis.arguments import for_one_pass, with_names
from synthesis.checks.checker import Checker, Problem
from synthesis.checks.page import article, page
from synthesis.formats.reading import OWN
from synthesis.formats.sources import SourceArguments


@dataclass(kw_only=True)
class CheckArguments(SourceArguments):
    """The traces, their model, and the output of the check."""

    tasks: str | None = field(
        default=None, metadata={"help": "Tasks with the ids of the traces: are answers right, and boxes shown?"}
    )
    max_length: int | None = field(default=None, metadata={"help": "Tokens that a trace may have."})
    max_problems: int = field(default=5, metadata={"help": "Problems of one kind that are shown."})
    json: str | None = field(default=None, metadata={"help": "Write all problems to this file."})
    page: str | None = field(
        default=None, metadata={"help": "Draw traces to this HTML file: two of each kind of problem, and six without."}
    )


def table(checker: Checker, max_shown: int) -> str:
    """The problems by kind, the first of each in full."""
    told = ", ".join(f"{count} {name}" for name, count in checker.formats.most_common())
    lines = [f"\n{checker.num_traces} traces ({told}), {checker.num_zooms} calls, {checker.num_problems} problems"]
    lines += [f"{name}: {words}" for name, words in checker.evidence.items()]
    if set(checker.formats) - {OWN}:
        lines.append("SFT reads our own form: turn the others with `fovea data convert` before training")
    if checker.lengths:
        lines.append(f"{median(checker.lengths):.0f} tokens in the median, {max(checker.lengths)} at most")
    for kind, count in Counter(problem.kind for problem in checker.problems).most_common():
        shown = [problem for problem in checker.problems if problem.kind == kind][:max_shown]
        lines.append(f"\n{'note, ' if shown[0].is_note else ''}{kind}: {count}")
        lines += [f"  {'file' if not one.line else f'line {one.line}'}: {one.message[:300]}" for one in shown]
    return "\n".join(lines)


def check(arguments: CheckArguments, episodes: EpisodeArguments) -> Checker:
    """Examines a file of traces, one at a time."""
    outline = load_outline(
        arguments.model_name_or_path, min_pixels=arguments.min_pixels, max_pixels=arguments.max_pixels
    )
    episodes = for_one_pass(episodes)
    tasks = {task.id: task for task in tasks_from(arguments.tasks)} if arguments.tasks else None
    findings = arguments.findings(outline, episodes)
    limits = arguments.limits(outline)
    checker = Checker(outline, episodes, limits, findings=findings, max_length=arguments.max_length, tasks=tasks)
    for line, trace in tqdm(arguments.traces(as_written=True), desc="traces"):
        checker.examine(line, trace)
    checker.finish()
    if arguments.page:
        drawn = _drawn(arguments, checker, limits)
        Path(arguments.page).write_text("".join(page(f"Traces of {arguments.dataset_name}", drawn)))
    return checker


def _drawn(arguments: CheckArguments, checker: Checker, limits: Any) -> Iterator[str]:
    """Two traces of each kind of problem, and the first six without any."""
    wanted: dict[int, list[Problem]] = {}
    counts: Counter[str] = Counter()
    bad = set()
    for problem in checker.problems:
        bad.add(problem.line)
        counts[problem.kind] += 1
        if counts[problem.kind] <= 2:
            wanted.setdefault(problem.line, []).append(problem)
    num_good = 0
    for line, foreign in arguments.traces(as_written=True):
        is_good = line not in bad and num_good < 6
        if isinstance(foreign, TraceError) or not (is_good or line in wanted):
            continue
        num_good += is_good
        problems = [f"{problem.kind}: {problem.message}" for problem in wanted.get(line, ())]
        try:
            yield article(
                f"Line {line}", to_trace(foreign.record), problems, checker.cutting_of(foreign), checker.frame, limits
            )
        except ImageError:
            continue  # named among the problems


def main() -> None:
    sys.argv[1:] = with_names(sys.argv[1:], "--dataset_name")
    arguments, episodes = parse((CheckArguments, EpisodeArguments), description=__doc__)
    try:
        checker = check(arguments, episodes)
    except (FileNotFoundError, TraceError, TaskError) as error:
        raise SystemExit(str(error)) from error
    print(table(checker, arguments.max_problems))
    if arguments.json:
        problems: list[dict[str, Any]] = [
            {**asdict(problem), "is_note": problem.is_note} for problem in checker.problems
        ]
        Path(arguments.json).write_text(json.dumps(problems, indent=2) + "\n")
    sys.exit(1 if checker.num_problems else 0)


if __name__ == "__main__":
    main()
