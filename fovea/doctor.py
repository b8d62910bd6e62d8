"""Checks before a training: what would fail, mislead or not fit, found before it costs GPU hours.

`fovea doctor CONFIG … [any option of the training]` examines what `train_grpo.py` or `train_sft.py` would do with the
same words. Every finding passes, warns or fails, and says what to do. The exit status is 1 if anything failed.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from fovea.config import ConfigError, find_config, parse
from fovea.memory import Sharding
from fovea.plugins import load_object

TRAININGS = {
    "grpo": ("rl.doctor:examine", "rl.arguments:ARGUMENTS"),
    "sft": ("sft.doctor:examine", "sft.arguments:ARGUMENTS"),
}
"""By training: what examines it, and the dataclasses of its options."""


class Verdict(StrEnum):
    PASS = "pass"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Finding:
    """What a check found; `cure` says what to do about a warning or failure."""

    check: str
    verdict: Verdict
    message: str
    cure: str = ""


COLORS = {Verdict.PASS: "32", Verdict.WARN: "33", Verdict.FAIL: "31"}


def plain(text: str) -> str:
    """The text without what could move the cursor or colour a terminal."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)


def colored(text: str, code: str) -> str:
    """Plain text in an ANSI colour on a terminal, as it is elsewhere."""
    return f"\033[{code}m{plain(text)}\033[0m" if sys.stdout.isatty() else plain(text)


class Examination:
    """Runs checks one after another, prints what they find, and keeps it."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def check(self, name: str, function: Callable[..., Any], *given: Any) -> Any:
        """What `function(note, *given)` returns; None if it raised, which is a failed check."""
        note = Note(self, name)
        try:
            return function(note, *given)
        except (Exception, SystemExit) as error:
            if isinstance(error, SystemExit) and not isinstance(
                error.code, str
            ):  # --help, or a value of the wrong type
                raise
            expected = isinstance(error, (ValueError, SystemExit, FileNotFoundError))
            note.fail(str(error) if expected else f"{type(error).__name__}: {error}")
            return None

    def add(self, finding: Finding) -> None:
        self.findings.append(finding)
        print(colored(f"{finding.verdict:4s}", COLORS[finding.verdict]), plain(f" {finding.check}: {finding.message}"))
        if finding.cure:
            print(plain(f"      -> {finding.cure}"), flush=True)

    @property
    def has_failed(self) -> bool:
        return any(finding.verdict is Verdict.FAIL for finding in self.findings)


@dataclass(frozen=True)
class Note:
    """How a check says what it found."""

    examination: Examination
    check: str

    def ok(self, message: str) -> None:
        self.examination.add(Finding(self.check, Verdict.PASS, message))

    def warn(self, message: str, cure: str = "") -> None:
        self.examination.add(Finding(self.check, Verdict.WARN, message, cure))

    def fail(self, message: str, cure: str = "") -> None:
        self.examination.add(Finding(self.check, Verdict.FAIL, message, cure))


@dataclass(kw_only=True)
class DoctorArguments:
    """On what the training would run, and what the doctor writes."""

    gpu_memory_gib: float | None = field(
        default=None, metadata={"help": "Memory of one GPU in GiB, which the training has to fit. Default: this one's."}
    )
    accelerate_config: str | None = field(
        default=None, metadata={"help": "The file that `accelerate launch --config_file` will get: processes, ZeRO."}
    )
    load_weights: bool | None = field(
        default=None,
        metadata={"help": "Load the weights and run them; default: if they are here and take half the memory or less."},
    )
    json: str | None = field(default=None, metadata={"help": "Write the findings to this file."})

    def sharding(self, note: Note) -> Sharding:
        """How the launch splits the training."""
        if self.accelerate_config is None:
            return Sharding()
        launch = yaml.safe_load(find_config(self.accelerate_config).read_text())
        settings = launch.get("deepspeed_config") or {}
        strange = [name for name in settings if "offload" in name and settings[name] not in (None, "none")]
        strange += [name for name in ("deepspeed_config_file",) if settings.get(name)]
        strange += ["FSDP"] * (launch.get("distributed_type") == "FSDP")
        if strange:
            note.warn(f"{', '.join(strange)} in {self.accelerate_config} are not taken into account for memory")
        return Sharding(int(launch.get("num_processes", 1)), int(settings.get("zero_stage", 0)))


def settings(note: Note, types: tuple[type, ...], default_config: str, words: Sequence[str]) -> tuple[Any, ...]:
    """What the words on the command line mean to a training, and `DoctorArguments` last."""
    import torch

    words = [*words, *([] if torch.cuda.is_available() else ["--use_cpu", "true"])]
    parsed = parse((*types, DoctorArguments), default_config=default_config, arguments=words)
    note.ok("all options are known and agree with each other")
    return parsed


def training_of(words: list[str]) -> str:
    """Which training the words are for: the one that alone knows their options.

    Where both do, it is SFT if they come from a file, else GRPO.
    """
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    place = words.index("--config") + 1 if "--config" in words else len(words)
    files = list(takewhile(lambda word: not word.startswith("--"), words[place:]))
    given = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
    for name in files:
        given |= set(yaml.safe_load(find_config(name).read_text()) or {})
    known = {
        training: {option.name for kind in load_object(types) for option in dataclasses.fields(kind)}
        for training, (_, types) in TRAININGS.items()
    }
    if given & (known["grpo"] - known["sft"]):
        return "grpo"
    return "sft" if files or given & (known["sft"] - known["grpo"]) else "grpo"


def main() -> None:
    words = sys.argv[1:]
    files = list(takewhile(lambda word: not word.startswith("-"), words))
    if files:
        words = ["--config", *files, *words[len(files) :]]
    examination = Examination()
    try:
        training = training_of(words)
    except ConfigError as error:
        raise SystemExit(f"fovea doctor: {error}") from error
    path = load_object(TRAININGS[training][0])(examination, words)
    if path:
        record = [dataclasses.asdict(finding) for finding in examination.findings]
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps(record, indent=2) + "\n")
    counts = {verdict: sum(f.verdict is verdict for f in examination.findings) for verdict in Verdict}
    print("\n" + ", ".join(f"{count} {verdict.lower()}" for verdict, count in counts.items()))
    sys.exit(1 if examination.has_failed else 0)


if __name__ == "__main__":
    main()
