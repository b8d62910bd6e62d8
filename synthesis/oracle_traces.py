"""Cold-start traces by an oracle that knows the boxes: `fovea traces --dataset_name tasks.jsonl --output_dir DIR`.

It plays the real environment on your tasks, zooms into each of their `boxes` in turn and writes the answer; without a
--dataset_name on fresh procedural scenes. With --noise and --looseness boxes are drawn as a hurried annotator draws
them, off centre and too large.
With --environment focus or chain it goes by the chains in the tasks' metadata (`fovea tasks albums` writes such).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.play import Policy, play_each
from environments.policies.chain_oracle import CHAINED, make_oracle
from environments.seats import Limits, TaskNotShown, opening
from environments.traces import write_fit_traces
from fovea.arguments import PixelArguments
from fovea.boxes import Frame
from fovea.chains import KEYS, chain_of_task, problem_of
from fovea.commands import refuse_written
from fovea.config import CONFIGS, parse
from fovea.episodes import Episode
from fovea.images import ImageError
from fovea.models.loading import load_outline
from fovea.models.names import EMBEDDED
from fovea.tasks import Task
from synthesis.arguments import TraceSourceArguments
from synthesis.shapes import make_tasks

DEFAULT_FOLDER = Path("runs/tiny/traces")
BATCH = 64
"""Episodes that the oracle plays together: its hand draws for the first turns of all of them, then for the second."""


@dataclass(kw_only=True)
class TraceArguments(TraceSourceArguments):
    """The tasks with boxes that the oracle plays, the model the traces are for, and the oracle's precision."""

    num_traces: int = field(default=500, metadata={"help": "Scenes to draw where no tasks are named."})
    seed: int = field(default=11, metadata={"help": "Seed of the scenes and of the oracle's hand."})
    noise: float = field(default=0.0, metadata={"help": "Standard deviation of a box's shift, in its own size."})
    looseness: list[float] = field(
        default_factory=lambda: [1.0, 1.0], metadata={"help": "Boxes are enlarged by a factor in this range."}
    )
    mistakes: float = field(
        default=0.0,
        metadata={
            "help": "Probability that it focuses on a wrong image first, finds nothing there and goes on, so that a "
            "model learns to search: for --environment focus."
        },
    )

    def __post_init__(self) -> None:
        if len(self.looseness) != 2 or self.looseness[0] > self.looseness[1]:
            shown = " ".join(map(str, self.looseness))
            raise ValueError(f"looseness is {shown}: give two factors, the smaller first, such as 1 2")

    def load_tasks(self) -> list[Task]:
        """The tasks that these arguments name, or fresh scenes."""
        if self.dataset_name:
            return super().load_tasks()
        return make_tasks(num_tasks=self.num_traces, seed=self.seed, prefix="trace")


def write_oracle_traces(arguments: TraceArguments, episodes: EpisodeArguments) -> Path:
    """Writes a trace of each task below the output folder and returns it.

    Raises:
        ValueError: if no task has a box to zoom into, or most episodes are not fit to be imitated.
    """
    outline = load_outline(
        arguments.model_name_or_path, min_pixels=arguments.min_pixels, max_pixels=arguments.max_pixels
    )
    tasks = arguments.load_tasks()
    refuse_unplayable(arguments, episodes, tasks)
    playing = Playing(
        _oracle(arguments, episodes.environment, Frame(episodes.box_frame) if episodes.box_frame else outline.frame),
        environment_factory(episodes, outline),
        Limits(max_turns=episodes.max_turns),
    )
    folder = Path(arguments.output_dir)
    dropped = write_fit_traces(playing.played(tasks), folder)
    if playing.hidden:
        dropped[f"not shown, the first of them because {playing.hidden[0]}"] = len(playing.hidden)
    say_dropped(dropped, len(tasks))
    words = "" if episodes.environment == "views" else _without_a_tool(playing.unaided)
    print(f"{len(tasks) - dropped.total()} traces{words}")
    return folder


def refuse_unplayable(arguments: TraceArguments, episodes: EpisodeArguments, tasks: Sequence[Task]) -> None:
    """Raises ValueError for tasks without what the oracle goes by, or mistakes that it cannot make."""
    if episodes.environment != "views" and not any(task.boxes or chain_of_task(task) for task in tasks):
        raise ValueError(
            f"no task of {arguments.dataset_name} has boxes or a chain, by which the oracle looks: give boxes, name "
            "their column with --columns boxes=…, or give metadata.foci"
        )
    if not 0 <= arguments.mistakes < 1 or (arguments.mistakes and episodes.environment != "focus"):
        raise ValueError(
            f"--mistakes {arguments.mistakes}: give a probability from 0 up to, but not including, 1, and with it "
            "--environment focus, where there are images to focus on"
        )
    if episodes.environment in CHAINED:
        refuse_half_chains(tasks)


@dataclass(frozen=True)
class Playing:
    """The oracle at play. `hidden` says why tasks could not be shown, `unaided` names those that needed no tool."""

    oracle: Policy
    make_environment: Callable[[], Any]
    limits: Limits
    hidden: list[str] = field(default_factory=list)
    unaided: list[str] = field(default_factory=list)

    def played(self, tasks: Sequence[Task]) -> Iterator[Episode]:
        """An episode of each task that can be shown."""
        with tqdm(total=len(tasks), desc="traces", mininterval=2) as bar:
            for start in range(0, len(tasks), BATCH):
                batch = tasks[start : start + BATCH]
                shown = list(filter(self._is_shown, batch))
                bar.update(len(batch) - len(shown))
                for _, episode in play_each(
                    self.oracle, shown, environment_factory=self.make_environment, limits=self.limits, batch_size=BATCH
                ):
                    bar.update()
                    if not episode.num_zooms and not episode.foci:
                        self.unaided.append(episode.task.id)
                    yield episode

    def _is_shown(self, task: Task) -> bool:
        try:
            opening(self.make_environment(), task)
        except (ImageError, TaskNotShown) as error:
            self.hidden.append(str(error))
            return False
        return True


def _oracle(arguments: TraceArguments, environment: str, frame: Frame) -> Policy:
    return make_oracle(
        environment,
        frame,
        noise=arguments.noise,
        looseness=(arguments.looseness[0], arguments.looseness[1]),
        mistakes=arguments.mistakes,
        box_step=10 if arguments.model_name_or_path in EMBEDDED else 1,
        seed=arguments.seed,
    )


def _without_a_tool(ids: Sequence[str]) -> str:
    """The number of episodes without a tool call, and their ids, in words; empty if all called one."""
    if not ids:
        return ""
    named = ", ".join(ids[:5]) + (" …" if len(ids) > 5 else "")
    return f", {len(ids)} of them without a zoom: {named}"


def refuse_half_chains(tasks: Sequence[Task]) -> None:
    """Raises ValueError for a task whose chain lacks sub-questions or sub-answers: it could not be written."""
    for task in tasks:
        chain = chain_of_task(task)
        if chain is not None and (problem := problem_of(chain, len(task.images))):
            raise ValueError(f"task {task.id} has a chain that cannot be played: {problem} ({', '.join(KEYS)})")


def say_dropped(dropped: Counter[str], played: int) -> None:
    """Says how many episodes became no trace, and why.

    Raises:
        ValueError: if most did.
    """
    if not dropped:
        return
    reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
    message = f"{dropped.total()} of {played} episodes were dropped: {reasons}"
    if dropped.total() > played / 2:
        raise ValueError(
            f"{message}. Those are most: mend the tasks, raise --max_turns where turns ran out, or lower --noise "
            "and --looseness where boxes are empty"
        )
    print(message)


HANDICAP = ("--noise", "0.12", "--looseness", "1.0", "3.0")
"""Options that loosen the boxes of the default cold start, so that GRPO has something to learn."""


def write_default_traces() -> Path:
    """The traces of the default cold start, made once."""
    if not (DEFAULT_FOLDER / "traces.jsonl").exists():
        words = ["--output_dir", str(DEFAULT_FOLDER), *HANDICAP]
        write_oracle_traces(*parse((TraceArguments, EpisodeArguments), default_config=CONFIG, arguments=words))
    return DEFAULT_FOLDER


CONFIG = "tiny_traces.yaml"


def recipe_of(words: Sequence[str]) -> tuple[str | None, dict[str, Any]]:
    """The default config for these words, and defaults in place of one: those of the model's own cold start.

    That is the shipped SFT recipe that starts from the model. A model without one has its processor's limits.
    """
    named = next((words[place + 1] for place, word in enumerate(words[:-1]) if word == "--model_name_or_path"), "tiny")
    if named in EMBEDDED or "--config" in words:
        return CONFIG, {}
    known = {field.name for kind in (EpisodeArguments, PixelArguments) for field in fields(kind)}
    for path in sorted(CONFIGS.glob("*_sft.yaml")):
        recipe = yaml.safe_load(path.read_text())
        if recipe.get("model_name_or_path") == named:
            print(f"crops and views as in {path.name}; name another file with --config")
            return None, {name: value for name, value in recipe.items() if name in known}
    print(
        f"crops and views as the processor of {named} has them: give those of your SFT config, with --config or alone"
    )
    return None, {}


def main() -> None:
    config, defaults = recipe_of(sys.argv[1:])
    arguments, episodes = parse(
        (TraceArguments, EpisodeArguments), default_config=config, defaults=defaults, description=__doc__
    )
    refuse_written(Path(arguments.output_dir) / "traces.jsonl")
    try:
        folder = write_oracle_traces(arguments, episodes)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(f"written to {folder / 'traces.jsonl'}")


if __name__ == "__main__":
    main()
