"""Configuration in TRL's habit: `--config file.yaml …` (later files win), any field overridden on the command line."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


_HINTS = {
    "generation_batch_size": " (it is per_device_train_batch_size x processes x gradient_accumulation_steps, or "
    "steps_per_generation in place of the last: change one of these, or num_generations)"
}
"""What to do about settings that TRL refuses, by a name in its message."""


class ConfigError(SystemExit):
    """A configuration that cannot be read; printed without a traceback."""


def parse(
    dataclass_types: Sequence[type],
    *,
    default_config: str | None = None,
    defaults: Mapping[str, Any] | None = None,
    arguments: Sequence[str] | None = None,
) -> tuple[Any, ...]:
    """One instance of each dataclass, from YAML and command line (which wins); `defaults` hold where neither says.

    Several files may follow `--config`, later ones winning: `--config qwen3_vl_8b_grpo.yaml hardware/1x24gb.yaml`.
    Without it the shipped `default_config` is read, if there is one. Names without a file resolve in `configs/` too.

    Raises:
        ConfigError: for a missing file, an unknown key, with the nearest known name, or settings that cannot be.
    """
    from trl import TrlParser

    words = list(sys.argv[1:] if arguments is None else arguments)
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    known = {field.name for kind in dataclass_types for field in dataclasses.fields(kind)}
    names = [default_config] if default_config and not {"-h", "--help"} & set(words) else []
    if "--config" in words:
        place = words.index("--config")
        names = list(itertools.takewhile(lambda word: not word.startswith("--"), words[place + 1 :]))
        del words[place : place + 1 + len(names)]
    settings: dict[str, Any] = dict(defaults or {})
    for name in names:
        settings |= _read(find_config(name), known)
    parser = TrlParser(list(dataclass_types), allow_abbrev=False)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(settings, file)
        file.flush()
        words = ["--config", file.name, *words]
        try:
            *parsed, rest = parser.parse_args_and_config(args=words, return_remaining_strings=True)
        except ValueError as error:
            hint = next((said for name, said in _HINTS.items() if name in str(error)), "")
            raise ConfigError(f"{error}{hint}") from error
    unknown = [word for word in rest if word.startswith("--")]
    if unknown or rest:
        raise ConfigError(_unknown((unknown or rest)[0].lstrip("-").partition("=")[0], known, "on the command line"))
    return tuple(parsed)


def changed_fields(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults."""
    changed = {}
    for field in dataclasses.fields(settings):
        make = field.default_factory
        default = field.default if make is dataclasses.MISSING else make()
        if (value := getattr(settings, field.name)) != default:
            changed[field.name] = value
    return changed


def find_config(name: str) -> Path:
    """The YAML file called `name`: a path, or the name of a shipped one.

    Raises:
        ConfigError: if there is none, with the names of those shipped.
    """
    for path in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"):
        if path.is_file():
            return path
    shipped = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))
    raise ConfigError(f"no config at {name}; shipped are {', '.join(shipped)}")


def _read(path: Path, known: set[str]) -> dict[str, Any]:
    data = yaml.safe_load(path.read_text()) or {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, not a {type(data).__name__}")
    for key in data:
        if key not in known | {"env"}:
            raise ConfigError(_unknown(str(key), known, f"in {path}"))
    return data


def _unknown(key: str, known: set[str], where: str) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown option {key!r} {where}" + (f": did you mean {near[0]!r}?" if near else "")
