"""The course of single tasks over a training: never right, forgotten, learned."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from evaluation.markdown import markdown_row
from fovea.runs.records import Rollout

NEVER, FELL, ROSE, ALWAYS, LEVEL = "never right", "fell", "rose", "always right", "no change"
LISTED = (NEVER, FELL, ROSE)
"""Courses whose tasks are named: faults of the data hide among the first, what is forgotten is among the second."""
MOST_GROUPS_SHOWN = 8


@dataclass(frozen=True)
class TaskCourse:
    """A task over the groups in which a training played it."""

    task_id: str
    question: str
    success_rates: tuple[tuple[int, float], ...]
    """Of each group its step, and the share of its rollouts that are right."""

    @property
    def change(self) -> float:
        """From the first group's success rate to the last one's."""
        return self.success_rates[-1][1] - self.success_rates[0][1]

    @property
    def course(self) -> str:
        rates = {rate for _, rate in self.success_rates}
        if rates in ({0.0}, {1.0}):
            return ALWAYS if rates == {1.0} else NEVER
        return LEVEL if self.change == 0 else ROSE if self.change > 0 else FELL


def accuracies_of_groups(rollouts: Iterable[Rollout]) -> dict[tuple[int, str], list[float]]:
    """Accuracies of each group's rollouts by step and task, without held-out tasks and rollouts without accuracy.

    Groups that dynamic sampling replaced are among them.
    """
    groups: dict[tuple[int, str], list[float]] = defaultdict(list)
    for rollout in rollouts:
        right = rollout.rewards.get("accuracy")
        if rollout.mode == "train" and right is not None:
            groups[rollout.step, rollout.task_id].append(right)
    return groups


def task_courses(rollouts: Sequence[Rollout]) -> list[TaskCourse]:
    """The course of each task that was played."""
    questions = {rollout.task_id: rollout.question or "" for rollout in rollouts}
    rates: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for (step, task_id), scores in sorted(accuracies_of_groups(rollouts).items()):
        rates[task_id].append((step, fmean(scores)))
    return [TaskCourse(task_id, questions[task_id], tuple(points)) for task_id, points in rates.items()]


def table(courses: Sequence[TaskCourse], *, most: int = 5) -> str:
    """Counts of courses, and `most` tasks of each of `LISTED`, as Markdown; empty if no task came up twice."""
    repeated = [one for one in courses if len(one.success_rates) > 1]
    if not repeated:
        return ""
    counts = Counter(one.course for one in repeated)
    groups = sum(len(one.success_rates) for one in courses)
    told = ", ".join(f"{counts[course]} {course}" for course in (NEVER, FELL, LEVEL, ROSE, ALWAYS))
    lines = ["| course | task | question | groups | success rate, step by step |", "|---|---|---|---|---|"]
    for course in LISTED:
        found = [one for one in repeated if one.course == course]
        found.sort(key=lambda one: (-abs(one.change), -len(one.success_rates), one.task_id))
        lines += [
            markdown_row([course, one.task_id, _short(one.question), len(one.success_rates), _rates(one.success_rates)])
            for one in found[:most]
        ]
    summary = f"{len(courses)} tasks in {groups} groups, {len(repeated)} of them in several groups: {told}."
    return "\n\n".join([summary, "\n".join(lines)] if len(lines) > 2 else [summary])


def _short(question: str) -> str:
    text = " ".join(question.replace("￼", " ").split())
    return text if len(text) <= 80 else f"{text[:79]}…"


def _rates(rates: Sequence[tuple[int, float]]) -> str:
    """Steps and rates, those in the middle left out where they are many."""
    shown = [f"{step}: {rate:.2f}" for step, rate in rates]
    half = MOST_GROUPS_SHOWN // 2
    return ", ".join(shown if len(shown) <= MOST_GROUPS_SHOWN else [*shown[:half], "…", *shown[-half:]])
