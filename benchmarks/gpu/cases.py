"""The parts of a slice, and the facts about the machine that they need."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """One measurement. `measure` is given the seconds it has left and returns numbers, and under `text` a line on them.

    `seconds` is what it takes, roughly: on an H100, or in small on two CPU cores. One that returns `unfinished` is
    called again when the benchmark goes on.
    """

    slice: str
    name: str
    seconds: float
    measure: Callable[[float], dict[str, Any]]
    is_elastic: bool = False
    """True if the case runs for as long as there is time, and for a minute at least."""

    @property
    def key(self) -> str:
        return f"{self.slice}: {self.name}"


def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def place() -> dict[str, Any]:
    """Device and dtype of models: bfloat16 on a GPU."""
    return {"device": "cuda", "dtype": torch.bfloat16} if device() == "cuda" else {}


def synchronized() -> float:
    """Seconds on the clock once the device has done all it was asked for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def restart_peak() -> None:
    """Forgets the most memory that was taken so far."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def peak_bytes() -> int | None:
    """The most memory that tensors took since `restart_peak`; None without a GPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def gib(num_bytes: float | None) -> str:
    return "-" if num_bytes is None else f"{num_bytes / 2**30:.1f} GiB"
