"""Traces of a run's own successes: `fovea traces own RUN --output_dir DIR`. No model is run.

RUN is the folder of a training (episodes.jsonl) or of an evaluation (samples.jsonl). Each successful episode is played
again from its texts, in the environment and on the tasks of the run, and has to end as it did. Traces are taken evenly
by family and number of zooms, so that what a policy does most does not drown the rest.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from tqdm import tqdm

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.play import play
from environments.policies.replay import NoTextLeft, Replay
from environments.seats import Limits
from environments.traces import unfit, write_traces
from evaluation.markdown import markdown_row
from evaluation.stored import StoredRun, stored_run
from fovea.commands import at_least_one, plain_parser, refuse_written
from fovea.config import ConfigError
from fovea.data.identity import fingerprint
from fovea.episodes import Episode
from fovea.models.loading import load_outline
from fovea.models.names import base_of
from fovea.runs.records import Rollout, Sample
from fovea.tasks import Task


@dataclass(frozen=True)
class Stage:
    """The environment and the limits of a run's episodes."""

    make_environment: Any
    limits: Limits


def stage_of(run: StoredRun, model: str | None) -> Stage:
    """The environment of a run, with its model's processor; `model` takes the place of one that has moved.

    Raises:
        ConfigError: for a run whose crops or views were replaced: its episodes show nothing of the images.
    """
    episodes = run.info.arguments(EpisodeArguments, "episodes")
    if (episodes.crops, episodes.views) != ("true", "true"):
        raise ConfigError(
            f"{run.folder} was played with crops {episodes.crops} and views {episodes.views}: name a run with true "
            "crops and views"
        )
    chosen = run.info.chosen("script", "evaluation", "model")
    name = model or chosen.get("model_name_or_path") or "tiny"
    limits = {"min_pixels": chosen.get("min_pixels"), "max_pixels": chosen.get("max_pixels")}
    factory = environment_factory(episodes, load_outline(base_of(name), **limits))
    return Stage(factory, Limits(episodes.max_turns, episodes.max_tokens_per_turn, 2**31))


def replayed(record: Sample | Rollout, task: Task, stage: Stage) -> tuple[Episode | None, str]:
    """The episode of a record, played again, or None and why it becomes no trace."""
    if isinstance(record, Sample) and record.task_hash not in (None, fingerprint(task)):
        return None, "its question, reference or image has changed"
    script = Replay([turn.text for turn in record.turns])
    try:
        [episode] = play(script, [task], environment_factory=stage.make_environment, limits=stage.limits)
    except NoTextLeft:
        return None, "ends otherwise when it is played again"
    if (reason := unfit(episode)) is not None:
        return None, reason
    if [crop.region for crop in episode.crops] != [crop.region for turn in record.turns if turn.observation
                                                   for crop in turn.observation.crops]:  # fmt: skip
        return None, "other crops when it is played again"
    return episode, ""


def successes(run: StoredRun) -> list[Sample | Rollout]:
    """The records that ended with the right answer, each text once."""
    seen: set[tuple] = set()
    kept = []
    for record in run.records:
        if isinstance(record, Rollout) and record.mode != "train":
            continue  # held-out tasks are for judging
        score = record.score if isinstance(record, Sample) else record.rewards.get("accuracy")
        key = (record.task_id, *(turn.text for turn in record.turns))
        is_success = record.answer is not None and not record.faults and (score is None or score > 0.99)
        if is_success and key not in seen:
            seen.add(key)
            kept.append(record)
    return kept


def balanced(records: Sequence[Sample | Rollout], families: Sequence[str], max_per_task: int) -> Iterator[Any]:
    """The records, one of each family and number of zooms by turns, at most so many of one task."""
    buckets: dict[tuple[str, int], list[Any]] = defaultdict(list)
    for success, family in zip(records, families, strict=True):
        buckets[family, success.num_zooms].append(success)
    of_task: Counter[str] = Counter()
    queues = [iter(bucket) for _, bucket in sorted(buckets.items())]
    while queues:
        for queue in list(queues):
            record: Any = next((one for one in queue if of_task[one.task_id] < max_per_task), None)
            if record is None:
                queues.remove(queue)
                continue
            of_task[record.task_id] += 1
            yield record


def harvest(folder: Path, output: Path, *, model: str | None, max_traces: int | None, max_per_task: int) -> str:
    """Writes the traces. Returns how many episodes became one, by family and zooms, and why others did not."""
    run = stored_run(folder)
    stage = stage_of(run, model)
    right = successes(run)
    families = [run.task(record).family for record in right]
    counts: Counter[tuple[str, int]] = Counter()
    dropped: Counter[str] = Counter()

    def episodes() -> Iterator[Episode]:
        for record in tqdm(balanced(right, families, max_per_task), total=max_traces or len(right), desc="traces"):
            if max_traces is not None and counts.total() == max_traces:
                return
            episode, reason = replayed(record, run.task(record), stage)
            if episode is None:
                dropped[reason] += 1
            else:
                counts[episode.task.family, episode.num_zooms] += 1
                yield episode

    found = episodes()
    if (first := next(found, None)) is None:
        reasons = "; ".join(f"{count} {reason}" for reason, count in dropped.most_common()) or "no answer was right"
        raise ConfigError(f"none of {len(run.records)} episodes becomes a trace: {reasons}")
    write_traces(chain([first], found), output)
    lines = [f"\n{counts.total()} traces of {len(run.records)} episodes, {len(right)} different ones right\n",
             "| family | zooms | traces |", "|---|---|---|"]  # fmt: skip
    lines += [markdown_row([family, zooms, count]) for (family, zooms), count in sorted(counts.items())]
    lines += [f"\ndropped: {count} {reason}" for reason, count in dropped.most_common()]
    return "\n".join(lines)


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("run", type=Path, help="folder of a training or an evaluation")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for traces.jsonl and images")
    parser.add_argument("--model_name_or_path", help="where the run's model is now, if it has moved")
    parser.add_argument("--max_traces", type=at_least_one, help="stop after so many, taken evenly (default: all)")
    parser.add_argument("--max_per_task", type=at_least_one, default=2, help="traces of one task at most (default: 2)")
    args = parser.parse_args()
    refuse_written(args.output_dir / "traces.jsonl")
    try:
        print(harvest(args.run, args.output_dir, model=args.model_name_or_path, max_traces=args.max_traces,
                      max_per_task=args.max_per_task))  # fmt: skip
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(f"written to {args.output_dir / 'traces.jsonl'}")


if __name__ == "__main__":
    main()
