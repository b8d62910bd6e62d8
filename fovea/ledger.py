"""The time of a run by phase, in seconds, and the amount of work in each phase.

Code says what it is doing (`with phase("vision"):`, or as a decorator). Time belongs to the innermost phase alone, so
that phases add up to the whole; what happens outside any is "other". One ledger a process, and only its main thread
writes in it.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Ledger:
    """Seconds by phase and counts by name since the last `restart`, and in the run that it went on with."""

    def __init__(self) -> None:
        self.restart()

    def restart(self, earlier: Path | None = None) -> None:
        """Starts empty, or with the ledger of a stopped run at `earlier`. Work that is done twice counts twice."""
        kept = _read(earlier)
        self.seconds: defaultdict[str, float] = defaultdict(float, kept.get("seconds", {}))
        self.seconds.pop("total", None)
        self.counts: Counter[str] = Counter(kept.get("counts", {}))
        self._peaks: dict[str, float] = kept.get("peak_memory_gib", {})
        self._phases = ["other"]
        self._since = _now()

    def enter(self, name: str) -> None:
        self._charge()
        self._phases.append(name)

    def leave(self) -> None:
        self._charge()
        self._phases.pop()

    def _charge(self) -> None:
        """Writes the time since the last change of phase down to the phase that it was spent in."""
        now = _now()
        self.seconds[self._phases[-1]] += now - self._since
        self._since = now

    def summary(self) -> dict[str, Any]:
        """Seconds by phase, counts, counts a second, and peak memory in GiB: of the process, and of its GPU."""
        self._charge()
        total_seconds = sum(self.seconds.values())
        scale = 2**30 if sys.platform == "darwin" else 2**20
        memory = {"host": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale}
        if cuda := _cuda():
            memory["gpu"] = cuda.max_memory_allocated() / 2**30
        memory = {device: max(peak, self._peaks.get(device, 0.0)) for device, peak in memory.items()}
        return {
            "seconds": {"total": total_seconds, **dict(sorted(self.seconds.items(), key=lambda item: -item[1]))},
            "counts": dict(self.counts),
            "per_second": {name: count / total_seconds for name, count in self.counts.items()},
            "peak_memory_gib": memory,
        }

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(self.summary(), indent=2) + "\n")

    def table(self) -> str:
        """The summary as people read it."""
        summary = self.summary()
        total_seconds = summary["seconds"]["total"]
        lines = ["| phase | seconds | share |", "|---|---|---|"]
        lines += [
            f"| {name} | {seconds:.1f} | {seconds / total_seconds:.0%} |"
            for name, seconds in summary["seconds"].items()
        ]
        rates = [f"{count:,} {name} ({count / total_seconds:,.1f}/s)" for name, count in self.counts.items()]
        peaks = [f"{gibibytes:.1f} GiB on the {device}" for device, gibibytes in summary["peak_memory_gib"].items()]
        return "\n".join([*lines, "; ".join(rates), f"peak memory: {', '.join(peaks)}"])


def _read(path: Path | None) -> dict[str, Any]:
    """A ledger that was written there; nothing if there is none, or a kill cut it off."""
    try:
        return json.loads(path.read_text()) if path else {}
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def _cuda() -> Any:
    """`torch.cuda` if it is in use; this module alone loads no torch."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch and torch.cuda.is_initialized() else None


def _now() -> float:
    if cuda := _cuda():
        cuda.synchronize()
    return time.perf_counter()


LEDGER = Ledger()


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Counts the time in this block, or in a function with this decorator, as time of phase `name`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    LEDGER.enter(name)
    try:
        yield
    finally:
        LEDGER.leave()


def count(name: str, number: int) -> None:
    """Adds `number` to the count of `name`."""
    LEDGER.counts[name] += number
