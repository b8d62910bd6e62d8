"""Time that the episodes of an evaluation took, by engine, device and number of episodes side by side.

With --batch_size 1 seconds an episode are its latency, else what an episode takes of the time at that throughput.
Loading a model and its tasks is not counted. Every start of an evaluation adds a line to pace.jsonl.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from fovea.jsonl import append_lines, read_jsonl

PACE = "pace.jsonl"


@dataclass(frozen=True)
class Setting:
    """The engine, its device, its episodes side by side, and the number of its processes."""

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
    """Seconds an episode, in which setting, and of how many episodes."""

    seconds: float
    setting: Setting
    episodes: int


def note_pace(folder: Path, setting: Setting, *, episodes: int, seconds: float) -> None:
    """Adds a line to the folder's pace.jsonl."""
    line = json.dumps({"episodes": episodes, "seconds": seconds, **asdict(setting)}) + "\n"
    append_lines(folder / PACE, [line])


def pace_of(folder: Path) -> Pace | None:
    """The pace of an evaluation, in the setting in which most of it was played; None where it was not timed."""
    played: dict[Setting, tuple[int, float]] = {}
    for row in read_jsonl(folder / PACE):
        episodes, seconds = row.pop("episodes"), row.pop("seconds")
        setting = Setting(**row)
        before = played.get(setting, (0, 0.0))
        played[setting] = before[0] + episodes, before[1] + seconds
    if not played:
        return None
    setting = max(played, key=lambda one: played[one][0])
    episodes, seconds = played[setting]
    return Pace(seconds / episodes, setting, episodes)
