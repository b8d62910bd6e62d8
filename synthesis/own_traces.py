"""Traces from a model's own successes (rejection sampling): `fovea traces sampled --output_dir DIR`.

The model plays tasks; episodes that end with the right answer, every turn well formed, become traces to train on.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm
from transformers import set_seed

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory, make_renderer
from environments.play import play
from environments.policies.choice import make_policy
from environments.traces import unfit, write_traces
from fovea.arguments import PlayerArguments, TimeArguments
from fovea.config import parse
from fovea.episodes import Episode


@dataclass(kw_only=True)
class OwnTracesArguments(PlayerArguments, TimeArguments):
    """Which model plays which tasks, how often, and where its successes go."""

    output_dir: str = field(metadata={"help": "Folder for traces.jsonl and images."})
    temperature: float = field(default=1.0, metadata={"help": "Sampling temperature."})
    num_samples: int = field(default=8, metadata={"help": "Episodes of each task."})


def successes(episodes: list[Episode]) -> list[Episode]:
    """The episodes that are worth imitating."""
    return [episode for episode in episodes if unfit(episode) is None]


def main() -> None:
    arguments, episodes = parse((OwnTracesArguments, EpisodeArguments), description=__doc__)
    set_seed(arguments.seed)
    model = arguments.load_model()
    renderer = make_renderer(episodes, model)
    policy = make_policy(arguments, model, renderer)
    factory = environment_factory(episodes, model)
    tasks = [task for task in arguments.load_tasks() for _ in range(arguments.num_samples)]
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
