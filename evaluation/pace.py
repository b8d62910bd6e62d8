"""How long the episodes of an evaluation took, by what they were played, and how many side by side.

With --batch_size 1 seconds an episode are its latency, else what an episode takes of the time at that throughput.
Loading a model and its tasks is not counted. Every start of an evaluation adds a line to pace.jsonl.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from evaluation.arguments import EvaluationArguments
from fovea.jsonl import read_jsonl
from fovea.processes import process_state

PACE = "pace.jsonl"


@dataclass(frozen=True)
class Player:
    """What played: an engine on a device, so many episodes side by side in each of so many processes."""

    engine: str
    device: str
    batch_size: int
    processes: int = 1

    def __str__(self) -> str:
        side_by_side = f"{self.batch_size} at a time" if self.batch_size > 1 else "one at a time"
        processes = f", {self.processes} processes" if self.processes > 1 else ""
        return f"{self.engine}, {self.device}, {side_by_side}{processes}"


@dataclass(frozen=True)
class Pace:
    """Seconds an episode, by which player."""

    seconds: float
    player: Player


def player_of(arguments: EvaluationArguments) -> Player:
    """What plays an evaluation in this process."""
    if arguments.openai_base_url or arguments.vllm_server_base_url:
        engine, device = "endpoint" if arguments.openai_base_url else "vLLM server", "elsewhere"
    else:
        engine = "vLLM" if arguments.use_vllm else "Transformers"
        number = torch.get_num_threads()
        threads = f"CPU, {number} thread{'s' if number > 1 else ''}"
        device = torch.cuda.get_device_name() if torch.cuda.is_available() else threads
    return Player(engine, device, arguments.batch_size, process_state().num_processes)


@contextmanager
def timed(folder: Path, arguments: EvaluationArguments, num_played: Callable[[], int]) -> Iterator[None]:
    """Times the episodes that all processes play inside the block, also if it is left by an exception."""
    state, started = process_state(), time.perf_counter()
    try:
        yield
        state.wait_for_everyone()
    finally:
        if state.is_main_process and (number := num_played()) > 0:
            row = {"episodes": number, "seconds": time.perf_counter() - started, **asdict(player_of(arguments))}
            with (folder / PACE).open("a") as file:
                file.write(json.dumps(row) + "\n")


def pace_of(folder: Path) -> Pace | None:
    """The pace of an evaluation, by the player that played most of it; None where it was not timed."""
    seconds: dict[Player, tuple[int, float]] = {}
    for row in read_jsonl(folder / PACE):
        episodes, took = row.pop("episodes"), row.pop("seconds")
        player = Player(**row)
        before = seconds.get(player, (0, 0.0))
        seconds[player] = before[0] + episodes, before[1] + took
    if not seconds:
        return None
    player = max(seconds, key=lambda one: seconds[one][0])
    episodes, took = seconds[player]
    return Pace(took / episodes, player)
