"""Behaviour in episodes of evaluations and trainings: `fovea analyse episodes RUN [RUN …]`.

By family of tasks, and for a training also over its steps: how often a tool is called in each turn; whether the first
zoom hits a target, whether a later one does where the first has missed, and how often the answer is right in each case;
how large a target is in the crop that hits it; whether the right images were focused on. A zoom hits a target if it
shows at least nine tenths of its box. `constant` is the answer given most often, with how often it was given and how
often it is right: a policy that drifts towards one answer shows there before accuracy falls. A training also has the
tasks that came up again: how many are never right, and which of them were learned or forgotten.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from evaluation import task_history
from evaluation.markdown import in_all_and_by_family, markdown_row
from evaluation.stored import StoredRun, stored_run
from fovea.answers import constant_of, score
from fovea.boxes import coverage
from fovea.chains import chain_of_task
from fovea.commands import plain_parser
from fovea.episodes import Crop, Episode
from fovea.runs.records import Rollout, Sample

HIT = 0.9
"""Share of a target's box that a crop shows at least, if it hits."""
BINS = 5
"""Parts of a training."""


@dataclass(frozen=True)
class Behaviour:
    """Counts and shares over some episodes. A share of no episodes is None."""

    n: int
    accuracy: float
    calls_by_turn: tuple[float, ...]
    """Share of episodes that call a tool in turn 1, 2, …, up to the last in which any does."""
    first_hit: float | None
    """Share of episodes with target boxes and a zoom whose first zoom hits."""
    recovered: float | None
    """Share of those whose first zoom misses in which a later one hits."""
    right_if_hit: float | None
    right_if_missed: float | None
    """Accuracy where some zoom hits a target, and where none does."""
    target_share: float | None
    """Area of a target against that of the first crop that hits it, in the median."""
    first_focus: float | None
    """Share of episodes with foci whose first focus is that of the task's first sub-question."""
    found: float | None
    """Share of them in which all images that the chain needs were focused on."""
    right_if_found: float | None
    constant: str
    constant_share: float
    constant_right: float
    """The answer given most often, the share of episodes that give it, and of those whose reference it is."""


@dataclass(frozen=True)
class _Seen:
    """One episode, as far as it is counted."""

    score: float
    calls: tuple[bool, ...]
    hits: tuple[float | None, ...]
    """For each zoom the share of the target in the crop, None for one that hits none; no zooms without target boxes."""
    foci: tuple[bool, bool] | None
    """Two flags: the first focus is right, and all images were found."""
    answer: str
    reference: str


def seen(episode: Episode, right: float) -> _Seen:
    """The counted properties of an episode; `right` is its degree of correctness."""
    task, chain = episode.task, chain_of_task(episode.task)
    hits = tuple(_hit(crop, episode) for crop in episode.crops) if task.boxes else ()
    foci = None
    if chain is not None and episode.foci:
        focused = {image for focus in episode.foci for image in focus.images}
        first = set(episode.foci[0].images) == set(chain.steps[0].images)
        foci = first, set(chain.images) <= focused
    calls = tuple(turn.calls_a_tool for turn in episode.turns)
    return _Seen(right, calls, hits, foci, constant_of(task, episode.answer or "(none)"), constant_of(task))


def _hit(crop: Crop, episode: Episode) -> float | None:
    targets = [target.box for target in episode.task.boxes if target.img_idx == crop.root]
    hit = [target for target in targets if coverage(target, crop.region) >= HIT]
    return max((target.area / crop.region.area for target in hit), default=None)


def behaviour(episodes: Sequence[_Seen]) -> Behaviour:
    """Counts and shares over these episodes, of which there is at least one."""
    zoomed = [one for one in episodes if one.hits]
    missed = [one for one in zoomed if one.hits[0] is None]
    hit = [one for one in zoomed if any(share is not None for share in one.hits)]
    never = [one for one in zoomed if all(share is None for share in one.hits)]
    focused = [(one, *one.foci) for one in episodes if one.foci is not None]
    turns = max((place + 1 for one in episodes for place, called in enumerate(one.calls) if called), default=0)
    [(constant, times)] = Counter(one.answer for one in episodes).most_common(1)
    return Behaviour(
        n=len(episodes),
        accuracy=fmean(one.score for one in episodes),
        calls_by_turn=tuple(
            fmean(one.calls[turn] if turn < len(one.calls) else False for one in episodes) for turn in range(turns)
        ),
        first_hit=_mean(one.hits[0] is not None for one in zoomed),
        recovered=_mean(any(share is not None for share in one.hits) for one in missed),
        right_if_hit=_mean(one.score for one in hit),
        right_if_missed=_mean(one.score for one in never),
        target_share=median([next(share for share in one.hits if share is not None) for one in hit]) if hit else None,
        first_focus=_mean(first for _, first, _ in focused),
        found=_mean(found for _, _, found in focused),
        right_if_found=_mean(one.score for one, _, found in focused if found),
        constant=constant,
        constant_share=times / len(episodes),
        constant_right=fmean(one.reference == constant for one in episodes),
    )


def _mean(values: Iterable[float]) -> float | None:
    kept = list(values)
    return fmean(kept) if kept else None


def analyse(run: StoredRun) -> dict[str, Behaviour]:
    """The behaviour of all episodes, of each family, and of each part of a training, by name.

    Of a training, that of the episodes which it learned from.
    """
    records = [record for record in run.records if isinstance(record, Sample) or record.is_of_a_batch]
    episodes = [(record, record.episode(run.task(record))) for record in records]
    counted = [(record, episode.task.family, seen(episode, _right(record, episode))) for record, episode in episodes]
    families = sorted({family for _, family, _ in counted})
    found = in_all_and_by_family(
        behaviour([one for _, _, one in counted]),
        {family: behaviour([one for _, of, one in counted if of == family]) for family in families},
    )
    steps = [record.step for record in records if isinstance(record, Rollout)]
    size = (max(steps, default=0) + 1) / BINS
    for part in range(BINS if steps else 0):
        first, end = round(part * size), round((part + 1) * size)
        for family in dict.fromkeys(("all", *families)):
            within = [
                one
                for record, of, one in counted
                if isinstance(record, Rollout) and first <= record.step < end and family in ("all", of)
            ]
            if within:
                found[f"{family}, steps {first} to {end - 1}"] = behaviour(within)
    return found


def _right(record: Sample | Rollout, episode: Episode) -> float:
    if isinstance(record, Sample):
        return record.score
    return score(episode.task, episode.answer or "", episode.framing)


COLUMNS: Mapping[str, Callable[[Behaviour], str]] = {
    "n": lambda one: str(one.n),
    "accuracy": lambda one: f"{one.accuracy:.3f}",
    "calls by turn": lambda one: " ".join(f"{share:.2f}" for share in one.calls_by_turn[:6]),
    "first zoom hits": lambda one: _share(one.first_hit),
    "recovered": lambda one: _share(one.recovered),
    "right if hit": lambda one: _share(one.right_if_hit),
    "if missed": lambda one: _share(one.right_if_missed),
    "target in crop": lambda one: _share(one.target_share),
    "first focus": lambda one: _share(one.first_focus),
    "found": lambda one: _share(one.found),
    "right if found": lambda one: _share(one.right_if_found),
    "constant (given, right)": lambda one: f"{one.constant[:20]} ({one.constant_share:.2f}, {one.constant_right:.2f})",
}


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def table(found: Mapping[str, Behaviour]) -> str:
    """As a Markdown table."""
    lines = [f"| episodes | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for name, one in found.items():
        lines.append(markdown_row([name, *(column(one) for column in COLUMNS.values())]))
    return "\n".join(lines)


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders of evaluations or of trainings")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    args = parser.parse_args()
    content: dict[str, dict[str, Any]] = {}
    for folder in args.runs:
        run = stored_run(folder)
        if not run.records:
            raise SystemExit(f"{run.path} holds no episode yet: wait until the run has played some")
        found = analyse(run)
        content[str(folder)] = {name: asdict(one) for name, one in found.items()}
        print(f"{folder}\n\n{table(found)}\n")
        if courses := task_history.task_courses(run.rollouts):
            content[str(folder)]["success_rates_by_task"] = {one.task_id: one.success_rates for one in courses}
            print(f"{task_history.table(courses)}\n")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
