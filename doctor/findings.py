"""Findings of checks, and the functions that report them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    PASS = "pass"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """The result of a check. `cure` tells the user what to do; it is empty after a pass or if the message tells it."""

    check: str
    verdict: Verdict
    message: str
    cure: str = ""


COLORS = {Verdict.PASS: "32", Verdict.WARN: "33", Verdict.FAIL: "31"}
"""ANSI colours."""


def plain(text: str) -> str:
    """The text without what could move the cursor or colour a terminal."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)


def colored(text: str, code: str) -> str:
    """Plain text in an ANSI colour on a terminal, as it is elsewhere."""
    return f"\033[{code}m{plain(text)}\033[0m" if sys.stdout.isatty() else plain(text)


def _say_what_runs(what: str) -> None:
    """Shows on a terminal, in a line that is written over, which check is running."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


class Examination:
    """Runs checks one after another, prints what they find, and keeps it."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def check(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of `function(note, *arguments)`; None if it raised, which counts as a failed check."""
        note = Note(self, name)
        _say_what_runs(f"{name} …")
        try:
            return function(note, *arguments)
        except (ValueError, FileNotFoundError) as error:  # the message says what to do
            note.fail(str(error), cure="")
        except SystemExit as error:
            if not isinstance(error.code, str):  # --help, or a value of the wrong type
                raise
            note.fail(error.code, cure="")
        except Exception as error:
            cure = "the training would stop here too: start it to see the traceback"
            note.fail(f"{type(error).__name__}: {error}", cure)
        return None

    def add(self, finding: Finding) -> None:
        self.findings.append(finding)
        _say_what_runs("")
        verdict = colored(f"{finding.verdict:4s}", COLORS[finding.verdict])
        print(verdict, plain(f" {finding.check}: {finding.message}"), flush=True)
        if finding.cure:
            print(plain(f"      -> {finding.cure}"), flush=True)

    @property
    def has_failed(self) -> bool:
        return any(finding.verdict is Verdict.FAIL for finding in self.findings)


@dataclass(frozen=True)
class Note:
    """Reports the result of one check."""

    examination: Examination
    check: str

    def ok(self, message: str) -> None:
        self.examination.add(Finding(self.check, Verdict.PASS, message))

    def warn(self, message: str, cure: str) -> None:
        self.examination.add(Finding(self.check, Verdict.WARN, message, cure))

    def fail(self, message: str, cure: str) -> None:
        self.examination.add(Finding(self.check, Verdict.FAIL, message, cure))


def evenly(items: Sequence[Any], number: int) -> list[Any]:
    """At most so many of the items, evenly spaced."""
    number = min(number, len(items))
    return [items[place * len(items) // number] for place in range(number)]
