"""Run directories: settings, versions and results of a run, written as it happens."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fovea.jsonl import append_lines, read_jsonl, replacing
from fovea.runs.records import ROLLOUTS, Rollout, RunInfo, append, read_run, write_run

PACKAGES = ("fovea", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "deepspeed", "vllm", "numpy")

METRICS = "metrics.jsonl"


class RunDirectory:
    """A folder with run.json, metrics.jsonl and episodes.jsonl."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.mkdir(parents=True, exist_ok=True)

    def write_start(self, **settings: Any) -> None:
        """Writes run.json: command, resolved settings, versions, commit and whether the tree was dirty."""
        info = RunInfo(
            command=tuple(without_secrets(sys.argv)),
            started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            settings={name: plain(value) for name, value in settings.items()},
            versions=versions(),
            **commit(),
        )
        write_run(self.path, info)

    def settings(self) -> Mapping[str, Mapping[str, Any]]:
        """The settings of the run that is in this folder, {} if there is none."""
        return read_run(self.path).settings

    def rewind(self, step: int) -> None:
        """Leaves in the logs what had happened when the checkpoint after `step` was taken; at 0 nothing."""
        for name in (METRICS, ROLLOUTS):
            path = self.path / name
            if not path.exists():
                continue
            rows = [row for row in read_jsonl(path) if step > 0 and row["step"] <= step]
            with replacing(path) as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)

    def add_metrics(self, metrics: dict[str, Any]) -> None:
        """One line of metrics.jsonl."""
        append_lines(self.path / METRICS, [json.dumps(metrics, default=str) + "\n"])

    def add_rollouts(self, rollouts: Iterable[Rollout]) -> None:
        """A line of episodes.jsonl for each rollout."""
        append(self.path / ROLLOUTS, rollouts)


def changes(before: Mapping[str, Mapping[str, Any]], now: dict[str, Any], *, free: re.Pattern[str]) -> Iterator[str]:
    """Differences between a run's stored settings and the current ones, without `free` names and names added since."""
    for part, settings in now.items():
        old, new = before.get(part, {}), plain(settings)
        for name in sorted(old.keys() & new.keys()):
            was, is_now = (json.dumps(known[name], default=str) for known in (old, new))
            if was != is_now and not free.fullmatch(name):
                yield f"{name} was {was}, is {is_now}"


def without_secrets(words: Sequence[str]) -> list[str]:
    """A command's words with tokens, keys and passwords in addresses left out."""
    shown: list[str] = []
    for word in words:
        name, sign, _ = word.partition("=")
        if shown and _SECRET.fullmatch(shown[-1]):
            word = "…"
        elif sign and _SECRET.fullmatch(name):
            word = f"{name}=…"
        shown.append(re.sub(r"://[^/@\s]+@", "://…@", word))
    return shown


_SECRET_KEY = re.compile(r"(?:.*_)?(?:token|api_key|password|secret)", re.IGNORECASE)
_SECRET = re.compile(r"--\S*(?:token|api_key|password|secret)", re.IGNORECASE)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit() -> dict[str, Any]:
    """The commit of the source tree and whether it had uncommitted changes; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        name = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True)
        state = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": name.stdout.strip(), "dirty": bool(state.stdout.strip())}


def plain(value: Any) -> Any:
    """A JSON-ready form of settings; secrets such as hub tokens are left out."""
    if hasattr(value, "to_dict") and not isinstance(value, type):
        value = value.to_dict()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items() if not _SECRET_KEY.fullmatch(str(key))}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.value if isinstance(value, Enum) else value
