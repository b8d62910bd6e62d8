"""Traces from a model's own successes (rejection sampling): `python -m synthesis.own_traces --output_dir DIR …`.

The model plays tasks; episodes that end with the right answer, every turn well formed, become traces to train on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import set_seed

from environments.play import play
from environments.policies import TransformersPolicy
from environments.rendering import Renderer
from environments.settings import EpisodeArguments
from environments.traces import write_traces
from fovea.config import parse
from fovea.episodes import Episode
from fovea.models import load_model
from fovea.tasks import tasks_from
from rewards.accuracy import accuracy


@dataclass
class OwnTracesArguments:
    """Which model plays which tasks."""

    output_dir: str = field(metadata={"help": "Folder for traces.jsonl and images."})
    model_name_or_path: str = field(default="runs/tiny/sft", metadata={"help": "Folder, hub id, adapter or tiny."})
    dataset_name: str = field(
        default="synthesis.shapes:training_tasks", metadata={"help": "Tasks: file, folder, hub id or module:function."}
    )
    num_samples: int = field(default=8, metadata={"help": "Episodes of each task."})
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature."})
    batch_size: int = field(default=128, metadata={"help": "Episodes that run side by side."})
    max_minutes: float | None = field(default=None, metadata={"help": "Stop playing after so many minutes."})
    seed: int = field(default=0, metadata={"help": "Seed of sampling."})


def successes(episodes: list[Episode]) -> list[Episode]:
    """The episodes that are worth imitating."""
    return [
        episode
        for episode in episodes
        if accuracy(episode.task, episode) == 1 and all(turn.well_formed for turn in episode.turns)
    ]


def main() -> None:
    arguments, episodes = parse((OwnTracesArguments, EpisodeArguments))
    set_seed(arguments.seed)
    model = load_model(arguments.model_name_or_path)
    model.network.requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")
    renderer = Renderer(model.processor)
    policy = TransformersPolicy(model.network, renderer, arguments.temperature, batch_size=arguments.batch_size)
    factory = episodes.environment_factory(model)
    tasks = [task for task in tasks_from(arguments.dataset_name) for _ in range(arguments.num_samples)]
    started, kept, played = time.monotonic(), [], 0
    with tqdm(total=len(tasks), desc="episodes") as bar:
        while played < len(tasks):
            chunk = tasks[played : played + arguments.batch_size]
            kept += successes(
                play(policy, chunk, environment_factory=factory, limits=episodes.limits(), renderer=renderer)
            )
            played += len(chunk)
            bar.update(len(chunk))
            if arguments.max_minutes is not None and time.monotonic() - started > 60 * arguments.max_minutes:
                break
    write_traces(kept, Path(arguments.output_dir))
    print(f"{len(kept)} of {played} episodes succeeded: {arguments.output_dir}/traces.jsonl")


if __name__ == "__main__":
    main()
