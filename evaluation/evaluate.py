"""Plays a checkpoint on tasks and scores it: `fovea eval CHECKPOINT --dataset_name … --output_dir DIR`.

Writes samples.jsonl (one line per episode, as each batch finishes) and summary.json. The same command again goes on
where a stopped one left off. On a public benchmark (`--benchmark vstar`) every answer is scored by our strict rule and
by those of the published tools; answers on which they differ go to disagreements.jsonl. Crop sizes and the frame of
boxes are those of the training that left CHECKPOINT, unless you say otherwise.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm import tqdm
from transformers import set_seed

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory, make_renderer
from environments.play import play
from environments.policies.choice import make_policy
from environments.policies.forced import OPENINGS, ForcedPolicy
from environments.probes.direct import play_directly
from environments.probes.other_images import with_others
from environments.taught import taught_settings
from evaluation.arguments import EvaluationArguments
from evaluation.benchmarks import BENCHMARKS
from evaluation.scoring import verdicts
from fovea.config import ConfigError, parse
from fovea.data.identity import fingerprint
from fovea.data.task_files import TaskError
from fovea.episodes import Episode
from fovea.jsonl import cut_torn_line, read_jsonl
from fovea.ledger import LEDGER
from fovea.models.loading import Model
from fovea.runs.directory import RunDirectory, changes
from fovea.statistics import best_constant, wilson_interval
from fovea.tasks import Task
from rewards.accuracy import accuracy


def sample(episode: Episode, index: int) -> dict[str, Any]:
    """One line of samples.jsonl; `scores` by rule where published ones apply, which read a last turn without tags."""
    score = accuracy(episode.task, episode)
    scores: dict[str, Any] = {}
    if benchmark := BENCHMARKS.get(str(episode.task.metadata.get("benchmark"))):
        said = episode.answer if episode.answer is not None else episode.turns[-1].text
        scores = {"scores": {"strict": score, **verdicts(episode.task, said)}}
        if within := benchmark.averaged_within:
            scores["within"] = episode.task.metadata[within]
    if episode.answer is None:
        why = f"no answer: {episode.stop_reason.value}"
    else:
        why = f"{episode.task.kind.value}: {episode.answer!r} against {episode.task.answer!r}"
    return {
        "id": episode.task.id,
        "sample": index,
        "family": episode.task.family,
        "score": score,
        **scores,
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
        questions = {row["id"]: (row["family"], str(row["reference"])) for row in rows}
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
            "context_tokens_per_question": fmean(row.get("num_context_tokens", row["num_tokens"]) for row in rows),
            "stop_reasons": dict(stops),
        }

    families = sorted({row["family"] for row in samples})
    rules = samples[0].get("scores", {})
    return {
        **part(samples),
        **({"rules": {rule: _official_mean(samples, rule) for rule in rules}} if rules else {}),
        "families": {family: part([row for row in samples if row["family"] == family]) for family in families},
    }


def _official_mean(samples: list[dict[str, Any]], rule: str) -> float:
    """A rule's accuracy; within groups first where the benchmark does so (HR-Bench: the cycles of one question)."""
    groups = defaultdict(list)
    for number, row in enumerate(samples):
        groups[row.get("within", number)].append(row["scores"][rule])
    return fmean(fmean(scores) for scores in groups.values())


def evaluate(model: Model, tasks: list[Task], arguments: EvaluationArguments, episodes: EpisodeArguments) -> dict:
    """The summary; samples are appended to samples.jsonl, tasks that are there already are not played again.

    Raises:
        ConfigError: if there are no tasks, or the folder holds an evaluation with other settings.
    """
    if not tasks:
        raise ConfigError("there are no tasks to evaluate on: look at --dataset_name and --max_tasks")
    run = RunDirectory(arguments.output_dir)
    path = run.path / "samples.jsonl"
    changed = list(changes(run.settings(), {"evaluation": arguments, "episodes": episodes}, free=FREE_SETTINGS))
    if changed and path.exists():
        raise ConfigError(
            f"{run.path} holds an evaluation with other settings ({'; '.join(changed)}): use another --output_dir, or "
            "delete it"
        )
    hashes = {task.id: fingerprint(task) for task in tasks}
    done = _played(path, hashes)
    run.write_start(evaluation=arguments, episodes=episodes)
    renderer = None if arguments.openai_base_url else make_renderer(episodes, model)
    policy = make_policy(arguments, model, renderer)
    if renderer is not None and arguments.force != "nothing":
        policy = ForcedPolicy(policy, renderer, OPENINGS[arguments.force])
    if episodes.crops == "other":
        tasks = with_others(tasks)
    player: Callable[..., list[Episode]] = partial(play_directly, policy, system=model.default_system)
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
                played = player(chunk, environment_factory=environment_factory(episodes, model), renderer=renderer)
                rows = [sample(episode, index) | {"task_hash": hashes[episode.task.id]} for episode in played]
                file.writelines(json.dumps(row, default=str) + "\n" for row in rows)
                file.flush()
                bar.update(len(rows))
    samples = read_jsonl(path)
    summary = {"model": arguments.model_name_or_path, "prompt": arguments.prompt, "crops": episodes.crops}
    summary |= summarize(samples)
    (run.path / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    differing = [row for row in samples if len(set(row.get("scores", {}).values())) > 1]
    if "rules" in summary:
        shown = ("id", "sample", "family", "answer", "reference", "scores")
        lines = [json.dumps({name: row[name] for name in shown}, default=str) + "\n" for row in differing]
        (run.path / "disagreements.jsonl").write_text("".join(lines))
    return summary


def _played(path: Path, hashes: Mapping[str, str]) -> set[tuple[str, int]]:
    """The ids and numbers of the samples that are in a file already.

    Raises:
        ConfigError: if one of them was played on another question, reference or image than the task of its id is now.
    """
    cut_torn_line(path)
    rows = read_jsonl(path)
    for row in rows:
        if row["id"] in hashes and row.get("task_hash", hashes[row["id"]]) != hashes[row["id"]]:
            raise ConfigError(
                f"task {row['id']} is not what {path} was played on (question, reference or images have changed): use "
                "another --output_dir, or delete it"
            )
    return {(row["id"], row["sample"]) for row in rows}


FREE_SETTINGS = re.compile(
    r"batch_size|device|image_cache_gib|max_tasks|num_samples|output_dir|view_sizes_px|vllm_.*|use_vllm"
)
"""Settings of an evaluation that may change when it goes on."""


def sweep(
    model: Model, tasks: list[Task], arguments: EvaluationArguments, episodes: EpisodeArguments
) -> dict[int, dict]:
    """The summaries by size of the first view, in square pixels' side: the resolution sweep of Chain-of-Focus.

    Raises:
        ConfigError: for a size that the model's processor would shrink.
    """
    most = model.limits.max_pixels
    if over := [side for side in arguments.view_sizes_px or () if side**2 > most]:
        raise ConfigError(
            f"first views of {over} pixels a side are more than the {most} pixels that the model is shown at most: "
            f"raise --max_pixels to {max(over) ** 2}"
        )
    found = {}
    for side in arguments.view_sizes_px or ():
        resized = [replace(task, first_view_max_pixels=side**2) for task in tasks]
        here = replace(arguments, output_dir=str(Path(arguments.output_dir) / f"view_{side}"))
        found[side] = evaluate(model, resized, here, episodes)
    (Path(arguments.output_dir) / "sweep.json").write_text(json.dumps(found, indent=2) + "\n")
    return found


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
    for rule, accuracy_by_rule in summary.get("rules", {}).items():
        lines.append(f"| all, by {rule} | {summary['n']} | {accuracy_by_rule:.3f} | | | | |")
    return "\n".join(lines)


def main() -> None:
    if len(sys.argv) > 1 and not sys.argv[1].startswith("-"):
        sys.argv[1:2] = ["--model_name_or_path", sys.argv[1]]
    named = sys.argv.index("--model_name_or_path") + 1 if "--model_name_or_path" in sys.argv else len(sys.argv)
    defaults = taught_settings(sys.argv[named]) if named < len(sys.argv) else {}
    arguments, episodes = parse((EvaluationArguments, EpisodeArguments), defaults=defaults)
    try:
        model, tasks = arguments.load_model(), arguments.load_tasks()
    except (FileNotFoundError, TaskError) as error:
        raise ConfigError(str(error)) from error
    LEDGER.restart()
    if arguments.view_sizes_px:
        for side, summary in sweep(model, tasks, arguments, episodes).items():
            print(f"\nfirst views of at most {side}x{side} pixels\n{table(summary)}")
    else:
        print(table(evaluate(model, tasks, arguments, episodes)))
    LEDGER.write(Path(arguments.output_dir) / "ledger.json")
    print(f"\n{LEDGER.table()}\n")
    print(f"written to {Path(arguments.output_dir) / 'samples.jsonl'}")


if __name__ == "__main__":
    main()
