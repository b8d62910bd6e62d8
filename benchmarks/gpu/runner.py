"""Runs cases one after the other in a process of their own, within a time, and keeps what they gave.

A case that fails, kills its process or outlasts its time is written down as such; the next one gets a fresh process.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.gpu.cases import Case

GRACE = 4
"""A case may take so many times what is expected of it."""


class Results:
    """The file of results, written anew after each case."""

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        """Goes on with a file that is there.

        Raises:
            ValueError: if that was measured on another card or in another size.
        """
        self.path, self.commit = path, about.get("commit")
        self.content: dict[str, Any] = {"about": about, "rows": {}}
        if path.exists():
            self.content = json.loads(path.read_text())
            for name in ("card", "small"):
                if (was := self.content["about"][name]) != about[name]:
                    raise ValueError(
                        f"{path} was measured with {name} {was}, this is {about[name]}: name another --json"
                    )

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        return self.content["rows"]

    def is_done(self, case: Case) -> bool:
        return self.rows.get(case.key, {}).get("status") == "done"

    def keep(self, case: Case, row: dict[str, Any]) -> None:
        self.rows[case.key] = row
        self.path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.path.with_suffix(".tmp")
        aside.write_text(json.dumps(self.content, indent=1, default=str) + "\n")
        os.replace(aside, self.path)


def run(cases: Sequence[Case], results: Results, *, deadline: float) -> Iterator[tuple[Case, dict[str, Any]]]:
    """Measures what has not been measured yet and fits into the time; failed cases again, after all others."""
    pending = [case for case in cases if not results.is_done(case)]
    pending.sort(key=lambda case: results.rows.get(case.key, {}).get("status") == "failed")
    process: _Process | None = None
    try:
        for case in pending:
            left = deadline - time.monotonic()
            if left < case.seconds:
                continue
            process = process or _Process()
            seconds = left if case.is_elastic else min(left, GRACE * case.seconds)
            row = process.measure(case.measure, seconds) | {"commit": results.commit}
            if row["status"] == "failed":
                process.end()
                process = None
            results.keep(case, row)
            yield case, row
    finally:
        if process is not None:
            process.end()


class _Process:
    """A process that measures, with whatever it starts itself in one group."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, there = context.Pipe()
        self.process = context.Process(target=_serve, args=(there,))
        self.process.start()
        there.close()

    def measure(self, measure: Callable[[float], dict[str, Any]], seconds: float) -> dict[str, Any]:
        started = time.monotonic()
        self.pipe.send((measure, seconds))
        row: dict[str, Any]
        try:
            if self.pipe.poll(seconds):
                row = self.pipe.recv()
            else:
                row = {"status": "failed", "text": f"stopped: it took more than {seconds:.0f} s"}
        except EOFError:
            self.process.join(5)
            row = {"status": "failed", "text": f"its process ended with exit code {self.process.exitcode}"}
        return row | {"seconds": time.monotonic() - started}

    def end(self) -> None:
        """Ends the process and all it has started."""
        self.pipe.close()
        if self.process.pid is not None and self.process.is_alive():
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                self.process.kill()
        self.process.join()


def _serve(pipe: Any) -> None:
    os.setsid()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    while True:
        try:
            measure, seconds = pipe.recv()
        except EOFError:
            return
        try:
            measurement = measure(seconds)
            row = {"status": "unfinished" if measurement.get("unfinished") else "done", **measurement}
        except Exception as error:  # whatever a case meets belongs to its row
            row = {"status": "failed", "text": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        pipe.send(row)
        gc.collect()
