"""Plays a checkpoint on tasks and scores it: `fovea eval CHECKPOINT --dataset_name … --output_dir DIR`.

Writes samples.jsonl (one line per episode, as each batch finishes) and summary.json. The same command again goes on
where a stopped one left off.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm import tqdm
from transformers import set_seed

from environments.direct import play_directly
from environments.play import play
from environments.settings import EpisodeArguments, make_policy
from fovea.arguments import PlayerArguments
from fovea.config import parse
from fovea.episodes import Episode
from fovea.ledger import LEDGER
from fovea.models import Model
from fovea.runs import RunDirectory, read_jsonl
from fovea.statistics import best_constant, wilson_interval
from fovea.tasks import Task
from rewards.accuracy import accuracy


@dataclass(kw_only=True)
class EvaluationArguments(PlayerArguments):
    """What is evaluated, on which tasks, and where the answers go."""

    output_dir: str = field(metadata={"help": "Folder for samples.jsonl and summary.json."})
    dataset_name: str = field(
        default="synthesis.shapes:test_tasks", metadata={"help": "Tasks: file, folder, hub id or module:function."}
    )
    num_samples: int = field(default=1, metadata={"help": "Episodes a task: k of Avg@k, with temperature above 0."})
    prompt: str = field(
        default="protocol",
        metadata={
            "help": "protocol: tools and think/answer tags; direct: the bare question, no tools.",
            "choices": ["protocol", "direct"],
        },
    )


def sample(episode: Episode, index: int) -> dict[str, Any]:
    """One line of samples.jsonl."""
    score = accuracy(episode.task, episode)
    if episode.answer is None:
        why = f"no answer: {episode.stop_reason.value}"
    else:
        why = f"{episode.task.kind.value}: {episode.answer!r} against {episode.task.answer!r}"
    return {
        "id": episode.task.id,
        "sample": index,
        "family": episode.task.family,
        "score": score,
        "why": why,
        **episode.to_dict(),
    }


def summarize(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy with its 95% interval, zooms and tokens, in all and by family. Several samples a task are averaged.

    `best_constant` is what one and the same answer to every question of a family would score: a floor for not looking.
    """

    def part(rows: list[dict[str, Any]]) -> dict[str, Any]:
        by_task = defaultdict(list)
        for row in rows:
            by_task[row["id"]].append(row["score"])
        correct = sum(fmean(scores) for scores in by_task.values())
        low, high = wilson_interval(round(correct), len(by_task))
        questions = {row["id"]: (row["family"], row["reference"]) for row in rows}
        stops: dict[str, int] = defaultdict(int)
        for row in rows:
            stops[row["stop_reason"]] += 1
        return {
            "n": len(by_task),
            "accuracy": correct / len(by_task),
            "interval": [low, high],
            "best_constant": best_constant(list(questions.values())),
            "zooms_per_question": fmean(row["num_zooms"] for row in rows),
            "zoom_rate": fmean(row["num_zooms"] > 0 for row in rows),
            "tokens_per_question": fmean(row["num_tokens"] for row in rows),
            "stop_reasons": dict(stops),
        }

    families = sorted({row["family"] for row in samples})
    return {
        **part(samples),
        "families": {family: part([row for row in samples if row["family"] == family]) for family in families},
    }


def evaluate(model: Model, tasks: list[Task], arguments: EvaluationArguments, episodes: EpisodeArguments) -> dict:
    """The summary; samples are appended to samples.jsonl, tasks that are there already are not played again."""
    run = RunDirectory(arguments.output_dir)
    path = run.path / "samples.jsonl"
    done = {(row["id"], row["sample"]) for row in read_jsonl(path)}
    renderer = episodes.renderer(model)
    policy = make_policy(arguments, model, renderer)
    player: Callable[..., list[Episode]] = partial(play_directly, policy)
    if arguments.prompt == "protocol":
        player = partial(play, policy, limits=episodes.limits(), batch_size=arguments.batch_size)
    with (
        path.open("a") as file,
        tqdm(total=len(tasks) * arguments.num_samples, desc="episodes", initial=len(done)) as bar,
    ):
        for index in range(arguments.num_samples):
            todo = [task for task in tasks if (task.id, index) not in done]
            for start in range(0, len(todo), arguments.batch_size):
                chunk = todo[start : start + arguments.batch_size]
                set_seed(arguments.seed + 1000 * index + start)
                played = player(chunk, environment_factory=episodes.environment_factory(model), renderer=renderer)
                rows = [sample(episode, index) for episode in played]
                file.writelines(json.dumps(row, default=str) + "\n" for row in rows)
                file.flush()
                bar.update(len(rows))
    summary = {"model": arguments.model_name_or_path, "prompt": arguments.prompt, "crops": episodes.crops}
    summary |= summarize(read_jsonl(path))
    (run.path / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    return summary


def table(summary: dict[str, Any]) -> str:
    """The summary as a Markdown table."""
    lines = [
        "| family | n | accuracy | 95% interval | best constant | zooms | tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, part in {"all": summary, **summary["families"]}.items():
        low, high = part["interval"]
        numbers = f"{part['best_constant']:.3f} | {part['zooms_per_question']:.2f} | {part['tokens_per_question']:.0f}"
        lines.append(f"| {name} | {part['n']} | {part['accuracy']:.3f} | {low:.3f}-{high:.3f} | {numbers} |")
    return "\n".join(lines)


def main() -> None:
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        sys.argv[1:2] = ["--model_name_or_path", sys.argv[1]]
    arguments, episodes = parse((EvaluationArguments, EpisodeArguments))
    model, tasks = arguments.load_model(), arguments.load_tasks()
    RunDirectory(arguments.output_dir).write_start(evaluation=arguments, episodes=episodes)
    LEDGER.restart()
    print(table(evaluate(model, tasks, arguments, episodes)))
    LEDGER.write(Path(arguments.output_dir) / "ledger.json")
    print(f"\n{LEDGER.table()}\n")
    print(f"written to {Path(arguments.output_dir) / 'samples.jsonl'}")


if __name__ == "__main__":
    main()
