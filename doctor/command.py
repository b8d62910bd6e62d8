"""Checks before a training: what would fail, mislead or not fit, found before it costs GPU hours.

`fovea doctor CONFIG … [any option of the training]` examines what `train_grpo.py` or `train_sft.py` would do with the
same words. Every finding passes, warns or fails, and says what to do. The exit status is 1 if anything failed.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from itertools import takewhile
from pathlib import Path

from doctor.findings import Examination, Verdict
from fovea.config import ConfigError, config_names, read_config
from fovea.plugins import load_object

TRAININGS = {
    "grpo": ("doctor.grpo:examine", "rl.arguments:ARGUMENTS"),
    "sft": ("doctor.sft:examine", "sft.arguments:ARGUMENTS"),
}
"""The function that examines each training, and the dataclasses of its options."""


def training_of(words: list[str]) -> str:
    """The training that the command line is for, `sft` or `grpo`: the only one that knows its options.

    If both know them, it is SFT with a config file, else GRPO.
    """
    files, words = config_names(words)
    named = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
    for file in files or ():
        named |= set(read_config(file))
    known = {
        training: {option.name for kind in load_object(types) for option in dataclasses.fields(kind)}
        for training, (_, types) in TRAININGS.items()
    }
    if named & (known["grpo"] - known["sft"]):
        return "grpo"
    return "sft" if files or named & (known["sft"] - known["grpo"]) else "grpo"


def write_findings(examination: Examination, path: Path) -> None:
    """Writes the findings as a JSON list of objects with check, verdict, message and cure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([dataclasses.asdict(finding) for finding in examination.findings], indent=2) + "\n")


def main() -> None:
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(__doc__)
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
        write_findings(examination, Path(path))
    counts = {verdict: sum(f.verdict is verdict for f in examination.findings) for verdict in Verdict}
    print("\n" + ", ".join(f"{count} {verdict.lower()}" for verdict, count in counts.items()))
    sys.exit(1 if examination.has_failed else 0)


if __name__ == "__main__":
    main()
