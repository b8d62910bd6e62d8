"""A cold start by a visual agent: `fovea traces agent --dataset_name tasks.jsonl --agent NAME@URL --output_dir DIR`.

For each task the agent locates what is asked about, zooms in the real environment, looks, and has its answer verified;
it adjusts the box by the verifier's advice, a bounded number of times. What the first view answers each time that it is
asked becomes a trace without a zoom. Traces are written from the steps that helped alone. The same command again goes
on where a killed one left off. `--shard 3/16` works on the fourth of sixteen parts; `fovea data join` joins them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.seats import Limits, TaskNotShown
from fovea.config import ConfigError, parse
from fovea.data.columns import TaskError
from fovea.data.identity import digest, fingerprint
from fovea.data.task_files import save_tasks
from fovea.images import ImageError
from fovea.models.loading import load_outline
from fovea.runs.directory import RunDirectory, changes, plain
from fovea.server import EndpointError, RefusedRequest
from fovea.tasks import Task
from synthesis.agent.casting import RoleArguments, cast_roles, content_of
from synthesis.agent.outcomes import FREE_SETTINGS, Outcome, append_outcome, finish, read_outcomes
from synthesis.agent.roles import NAMES
from synthesis.agent.solving import Agent, Bounds, GivenUp, Team
from synthesis.agent.writing import played
from synthesis.arguments import TraceSourceArguments, part_of
from synthesis.shapes import make_tasks
from synthesis.side_by_side import side_by_side


@dataclass(kw_only=True)
class AgentArguments(TraceSourceArguments, RoleArguments):
    """The tasks, the model that the traces are for, and the players of the roles."""

    num_scenes: int = field(default=100, metadata={"help": "Scenes to draw where no tasks are named."})
    agent: str | None = field(
        default=None,
        metadata={
            "help": "Who plays the roles that no other option names: NAME@https://host/v1 (an OpenAI-compatible "
            "endpoint, OPENAI_API_KEY its key), a model folder or hub id, ./file.py:function, truth (tasks with boxes) "
            "or rules (adjust, verify and summarise; their default without --agent)."
        },
    )
    locate: str | None = field(default=None, metadata={"help": "Who finds where something is."})
    look: str | None = field(default=None, metadata={"help": "Who answers by what is shown."})
    adjust: str | None = field(
        default=None,
        metadata={"help": "The model or function that moves a box which did not help (default: --agent, else rules)."},
    )
    verify: str | None = field(
        default=None, metadata={"help": "Who compares with the reference (default: --agent, else rules)."}
    )
    summarise: str | None = field(
        default=None, metadata={"help": "Who writes the thoughts (default: --agent, else rules)."}
    )
    num_sights: int = field(default=3, metadata={"help": "Times that the first view must be answered rightly."})
    max_attempts: int = field(default=4, metadata={"help": "Zooms (or chains of them) before a task is given up."})
    retry_failed: bool = field(default=False, metadata={"help": "Work again on tasks that were given up."})
    num_workers: int = field(default=16, metadata={"help": "Tasks that are worked on side by side."})
    view_sizes_px: list[int] | None = field(
        default=None, metadata={"help": "Work on each task once for each: first views of the square of so many pixels."}
    )
    shard: str = field(default="0/1", metadata={"help": "Which part of the tasks: 3/16 is the fourth of sixteen."})
    seed: int = field(default=0, metadata={"help": "Seed of scenes, and of what rules and truth draw."})

    def load_tasks(self) -> list[Task]:
        """The tasks of this shard, at each size of view.

        Raises:
            ConfigError: for a shard that there is not.
        """
        if self.dataset_name:
            tasks = super().load_tasks()
        else:
            tasks = make_tasks(num_tasks=self.num_scenes, seed=self.seed, prefix="agent")[: self.max_tasks]
        if self.view_sizes_px:
            tasks = [
                replace(task, id=f"{task.id}@{side}", first_view_max_pixels=side**2)
                for task in tasks
                for side in dict.fromkeys(self.view_sizes_px)
            ]
        number, count = part_of(self.shard)
        return tasks[number::count]

    def bounds(self) -> Bounds:
        return Bounds(self.num_sights, self.max_attempts, self.max_asks)


def work(task: Task, task_hash: str, agent: Agent, limits: Limits, folder: Path) -> Outcome:
    """Works on one task: the outcome has its trace, or the reason why it was given up."""
    try:
        solution = agent.solve(task)
        episode = played(task, solution, agent.make_environment, limits)
    except (GivenUp, RefusedRequest) as reason:
        return Outcome.given_up(task, task_hash, reason, agent.usage)
    except (ImageError, TaskNotShown) as error:
        return Outcome.given_up(task, task_hash, GivenUp(f"not shown: {error}"), agent.usage)
    return Outcome.of(episode, task_hash, agent.usage, folder)


def work_on_all(
    tasks: Sequence[Task],
    hashes: Mapping[str, str],
    team: Team,
    bounds: Bounds,
    make_factory: Callable[[], Callable[[], Any]],
    limits: Limits,
    folder: Path,
    *,
    num_workers: int,
) -> Iterator[Outcome]:
    """Outcomes as they come. Each worker has an environment factory, and so an image store, of its own.

    Raises:
        EndpointError: when an endpoint refuses every request; tasks that were under way get no outcome.
    """
    own = threading.local()

    def job(task: Task) -> Outcome:
        if not hasattr(own, "factory"):
            own.factory = make_factory()
        return work(task, hashes[task.id], Agent(team, bounds, own.factory), limits, folder)

    return side_by_side(job, tasks, num_workers)


def hash_of(task: Task) -> str:
    """A hash of all of a task that the agent works by."""
    metadata = {name: task.metadata.get(name) for name in ("labels", "questions", "nested", "readings")}
    boxes = [target.to_dict() for target in task.boxes]
    return digest([fingerprint(task), metadata, boxes, task.first_view_max_pixels])


def _served_anywhere(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings whose models do not say where they are served."""
    arguments = plain(settings.get("agent", {}))
    models = {name: word.partition("@http")[0] for name in ("agent", *NAMES) if (word := arguments.get(name))}
    return {**settings, "agent": arguments | models}


def run(arguments: AgentArguments, episodes: EpisodeArguments) -> Path:
    """Works on all tasks that have no outcome yet; the folder of the traces.

    Raises:
        ConfigError: if the folder holds outcomes of other settings or other tasks.
    """
    directory = RunDirectory(arguments.output_dir)
    folder = directory.path
    tasks = arguments.load_tasks()
    if not tasks:
        raise ConfigError("there are no tasks: look at --dataset_name, --max_tasks and --shard")
    hashes = {task.id: hash_of(task) for task in tasks}
    outcomes = read_outcomes(folder, hashes)
    words = {role: getattr(arguments, role) for role in NAMES}
    files = {"prompts": arguments.prompts, "agent": arguments.agent, **words}
    content = {f"content of {name}": content_of(word) for name, word in files.items()}
    settings = {"agent": arguments, "episodes": episodes, "content": content}
    before, now = map(_served_anywhere, (directory.settings(), settings))
    if outcomes and (changed := list(changes(before, now, free=FREE_SETTINGS))):
        raise ConfigError(
            f"{folder} holds outcomes of other settings ({'; '.join(changed)}): use another --output_dir, or delete it"
        )
    if arguments.retry_failed:
        outcomes = {task_id: outcome for task_id, outcome in outcomes.items() if outcome.is_trace}
    team = cast_roles(words, arguments.agent, arguments, seed=arguments.seed, cache_folder=folder)
    save_tasks(tasks, folder / "tasks")
    directory.write_start(**settings, evaluation={"dataset_name": str(folder / "tasks"), "output_dir": str(folder)})
    outline = load_outline(
        arguments.model_name_or_path, min_pixels=arguments.min_pixels, max_pixels=arguments.max_pixels
    )
    smaller = replace(episodes, image_cache_gib=episodes.image_cache_gib / arguments.num_workers)
    missing = [task for task in tasks if task.id not in outcomes]
    num_traces = sum(outcome.is_trace for outcome in outcomes.values())
    num_tokens = sum(outcome.num_tokens for outcome in outcomes.values())
    with tqdm(total=len(tasks), initial=len(outcomes), desc="tasks") as bar:
        for outcome in work_on_all(
            missing, hashes, team, arguments.bounds(), lambda: environment_factory(smaller, outline),
            episodes.limits(), folder, num_workers=arguments.num_workers,
        ):  # fmt: skip
            append_outcome(folder, outcome)
            outcomes[outcome.task_id] = outcome
            num_traces += outcome.is_trace
            num_tokens += outcome.num_tokens
            bar.set_postfix(traces=num_traces, tokens=num_tokens)
            bar.update()
    print(finish(folder, [outcomes[task.id] for task in tasks]))
    return folder


def main() -> None:
    arguments, episodes = parse((AgentArguments, EpisodeArguments), description=__doc__)
    try:
        folder = run(arguments, episodes)
    except EndpointError as error:
        done = f"What was answered is in {arguments.output_dir}: the same command goes on with it"
        raise SystemExit(f"{error}\n{done}") from error
    except (FileNotFoundError, TaskError, RuntimeError) as error:
        raise SystemExit(str(error)) from error
    print(f"written to {folder / 'traces.jsonl'}; the traces as pages: fovea report {folder}")


if __name__ == "__main__":
    main()
