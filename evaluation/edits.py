"""Does the answer follow the picture? `fovea analyse edits EVALUATION [EVALUATION …]`, played on `fovea tasks edited`.

Of each edited picture: the answer follows the edit, stays what was right before it, or is something else; of all, and
of those whose question was answered right before the edit. A model that reads the picture follows; one that answers
from the question stays or guesses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evaluation.analysing import analyse
from evaluation.markdown import markdown_row
from evaluation.stored import StoredRun
from fovea.answers.edits import EDIT, OUTCOMES, outcome
from fovea.statistics import wilson_interval


@dataclass(frozen=True)
class Outcomes:
    """Of `n` answers to edited pictures, how many follow, stay or are something else."""

    n: int
    num_pictures: int
    follows: int
    stays: int
    other: int

    def interval(self, outcome: str) -> tuple[float, float]:
        """95%, Wilson, of the share with this outcome; samples of one picture count as one."""
        return wilson_interval(getattr(self, outcome) * self.num_pictures / self.n, self.num_pictures)


def outcomes(run: StoredRun) -> dict[str, Outcomes]:
    """The outcomes of an evaluation: of all, of those right before the edit, and of these by family.

    Raises:
        ValueError: if nothing in it is edited, or an edited task was played without the one before the edit.
    """
    samples = {(sample.task_id, sample.sample): sample for sample in run.samples}
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for (_, number), sample in samples.items():
        task = run.task(sample)
        edit = task.metadata.get(EDIT)
        if edit is None:
            continue
        before = samples.get((edit["of"], number))
        if before is None:
            raise ValueError(f"{run.path} holds {task.id} without {edit['of']}: play both, without --max_tasks")
        what = task.id, outcome(task, sample.answer, sample.framing)
        found["all"].append(what)
        if before.score > 0.5:
            found["right before"].append(what)
            found[f"right before, {task.family}"].append(what)
    if not found:
        raise ValueError(f"{run.path} holds no edited picture: play tasks of `fovea tasks edited`")
    return {name: _count(found[name]) for name in sorted(found, key=lambda name: (name != "all", name))}


def _count(found: Sequence[tuple[str, str]]) -> Outcomes:
    ids, what = zip(*found, strict=True)
    return Outcomes(len(what), len(set(ids)), *(what.count(one) for one in OUTCOMES))


def table(runs: Mapping[str, Mapping[str, Outcomes]]) -> str:
    """As a Markdown table."""
    lines = [f"| evaluation | edited pictures | n | {' | '.join(OUTCOMES)} |", "|---|---|---|---|---|---|"]
    for name, found in runs.items():
        for group, one in found.items():
            cells = []
            for what in OUTCOMES:
                low, high = one.interval(what)
                cells.append(f"{getattr(one, what) / one.n:.3f} [{low:.3f}, {high:.3f}]")
            lines.append(markdown_row([name, group, one.n, *cells]))
    return "\n".join(lines)


def main() -> None:
    analyse(__doc__, outcomes, table)


if __name__ == "__main__":
    main()
