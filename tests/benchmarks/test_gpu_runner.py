"""The GPU benchmark ends in time, hides no failure and goes on where it stopped."""

import os
import time
from dataclasses import dataclass
from typing import Any

import pytest

from benchmarks.gpu.runner import Results, run

ABOUT = {"card": "a card", "small": True}


@dataclass(frozen=True)
class FakeCase:
    name: str
    measure: Any
    seconds: float = 0.5
    is_elastic: bool = False
    slice: str = "fake"

    @property
    def key(self) -> str:
        return f"{self.slice}: {self.name}"


def measures(seconds_left: float) -> dict:
    return {"text": "seven", "value": 7, "pid": os.getpid()}


def raises(seconds_left: float) -> dict:
    raise MemoryError("too large")


def dies(seconds_left: float) -> dict:
    os._exit(9)


def hangs(seconds_left: float) -> dict:
    time.sleep(600)
    return {}


def goes_on(seconds_left: float) -> dict:
    return {"text": f"{seconds_left:.0f}", "unfinished": True}


def run_all(cases: list[FakeCase], path: Any, minutes: float = 1.0) -> list[str]:
    results = Results(path, ABOUT)
    return [case.name for case, _ in run(cases, results, deadline=time.monotonic() + 60 * minutes)]


def test_what_fails_dies_or_hangs_is_named_and_hides_nothing(tmp_path):
    path = tmp_path / "results.json"
    cases = [
        FakeCase("first", measures),
        FakeCase("raises", raises),
        FakeCase("dies", dies),
        FakeCase("hangs", hangs, seconds=0.2),
        FakeCase("last", measures),
        FakeCase("too long for the time left", measures, seconds=1000),
    ]
    assert run_all(cases, path) == ["first", "raises", "dies", "hangs", "last"]
    rows = Results(path, ABOUT).rows
    assert {name: row["status"] for name, row in rows.items()} == {
        "fake: first": "done",
        "fake: raises": "failed",
        "fake: dies": "failed",
        "fake: hangs": "failed",
        "fake: last": "done",
    }
    assert rows["fake: raises"]["text"] == "MemoryError: too large"
    assert "exit code 9" in rows["fake: dies"]["text"]
    assert "more than 1 s" in rows["fake: hangs"]["text"]


def test_it_goes_on_with_what_is_missing_and_tries_failures_last(tmp_path):
    path = tmp_path / "results.json"
    assert run_all([FakeCase("a", raises), FakeCase("b", measures)], path) == ["a", "b"]
    cases = [FakeCase("a", measures), FakeCase("b", measures), FakeCase("c", goes_on, is_elastic=True)]
    assert run_all(cases, path) == ["c", "a"]
    assert run_all(cases, path) == ["c"]


def test_results_of_another_card_are_not_mixed_in(tmp_path):
    path = tmp_path / "results.json"
    run_all([FakeCase("a", measures)], path)
    with pytest.raises(ValueError, match="was measured with card a card, this is another: name another --json"):
        Results(path, {**ABOUT, "card": "another"})
