"""Configuration in TRL's habit: `--config file.yaml …` (later files win), any field overridden on the command line."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import itertools
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import yaml

from fovea.bounds import refused_numbers

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


_HINTS = {
    "generation_batch_size": " (it is per_device_train_batch_size x processes x gradient_accumulation_steps, or "
    "steps_per_generation in place of the last: change one of these, or num_generations)"
}
"""Cures for settings that TRL refuses, by a name in its message."""


class ConfigError(SystemExit):
    """A configuration that cannot be read; printed without a traceback."""


def parse(
    dataclass_types: Sequence[type],
    *,
    default_config: str | None = None,
    defaults: Mapping[str, Any] | None = None,
    arguments: Sequence[str] | None = None,
    description: str | None = None,
) -> tuple[Any, ...]:
    """One instance of each dataclass, from YAML and command line (which wins); `defaults` hold where neither says.

    Several files may follow `--config`, later ones winning: `--config qwen3_vl_8b_grpo.yaml hardware/1x24gb.yaml`.
    Without it the shipped `default_config` is read, if there is one. Names without a file resolve in `configs/` too.
    `description` is what `--help` says before the options.

    Raises:
        ConfigError: for a missing file, an unknown key, with the nearest known name, or settings that cannot be.
    """
    names, words = config_names(list(sys.argv[1:] if arguments is None else arguments))
    if names is None:
        names = [default_config] if default_config and not {"-h", "--help"} & set(words) else []
    known = {field.name for kind in dataclass_types for field in dataclasses.fields(kind)}
    settings: dict[str, Any] = dict(defaults or {})
    if not _has_accelerator():  # TRL's default of the first is refused there, Transformers' of the second warns
        settings = {name: False for name in ("bf16", "dataloader_pin_memory") if name in known} | settings
    # TRL's own use of a name that Transformers has renamed: nothing that a reader of the warning could mend.
    warnings.filterwarnings("ignore", message="`(is_)?gradient_checkpointing", category=FutureWarning)
    for name in names:
        found = read_config(name)
        for key in found:
            if key not in known | {"env"}:
                raise ConfigError(_unknown(str(key), known, f"in {find_config(name)}"))
        settings |= found
    parsed, rest = _parse(dataclass_types, settings, words, description)
    said = {*settings, *(word[2:].partition("=")[0].replace("-", "_") for word in words if word.startswith("--"))}
    for instance in parsed:
        vars(instance)[_SAID] = said
    if rest:
        option = next((word for word in rest if word.startswith("--")), rest[0])
        raise ConfigError(_unknown(option.lstrip("-").partition("=")[0], known, "on the command line"))
    return tuple(parsed)


def _has_accelerator() -> bool:
    import torch

    return torch.accelerator.is_available()


def config_names(words: Sequence[str]) -> tuple[list[str] | None, list[str]]:
    """The files behind `--config`, None without it, and the other words.

    >>> config_names(["--config", "a.yaml", "b.yaml", "--seed", "1"])
    (['a.yaml', 'b.yaml'], ['--seed', '1'])
    """
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    if "--config" not in words:
        return None, words
    place = words.index("--config")
    names = list(itertools.takewhile(lambda word: not word.startswith("--"), words[place + 1 :]))
    return names, words[:place] + words[place + 1 + len(names) :]


def value_of(option: str, words: Sequence[str]) -> str | None:
    """The value of a one-word option on the command line, else in the last of its files that sets it.

    >>> value_of("model_name_or_path", ["--seed", "1", "--model_name_or_path=runs/rl"])
    'runs/rl'
    """
    names, words = config_names(words)
    parts = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    if f"--{option}" in parts[:-1]:
        return parts[parts.index(f"--{option}") + 1]
    said = [settings[option] for settings in map(read_config, names or ()) if option in settings]
    return str(said[-1]) if said else None


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """The description as it was written, and the default of each option."""


def _parse(
    types: Sequence[type], settings: Mapping[str, Any], words: Sequence[str], description: str | None
) -> tuple[list[Any], list[str]]:
    """Instances of the types by TRL's parser, which takes settings from a file alone, and the words it did not know."""
    from trl import TrlParser

    class Parser(TrlParser):
        def error(self, message: str) -> NoReturn:
            raise ConfigError(f"{self.prog}: {message} (--help lists all options)")

        def parse_known_args(self, *args: Any, **kwargs: Any) -> Any:
            """As argparse does; a number that makes no sense ends it before TRL computes with it."""
            namespace, rest = super().parse_known_args(*args, **kwargs)
            if problems := refused_numbers(vars(namespace), types):
                raise ConfigError("\n".join(problems))
            return namespace, rest

    parser = Parser(cast(Any, list(types)), allow_abbrev=False, description=description, formatter_class=_Help)
    _put_ours_first(parser, types)
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(dict(settings), file)
        file.flush()
        try:
            *parsed, rest = parser.parse_args_and_config(
                args=["--config", file.name, *words], return_remaining_strings=True
            )
        except ValueError as error:
            hint = next((hint for name, hint in _HINTS.items() if name in str(error)), "")
            raise ConfigError(f"{error}{hint}") from error
    return parsed, rest


def _put_ours_first(parser: argparse.ArgumentParser, types: Sequence[type]) -> None:
    """Shows in `--help` what Fovea declares before the hundreds of options of TRL and Transformers."""
    parser.usage = "%(prog)s [--config FILE ...] [--OPTION VALUE ...]"
    classes = [base for kind in types for base in kind.__mro__]
    foreign = [base for base in classes if base.__module__.partition(".")[0] in ("trl", "transformers")]
    if not foreign:
        return
    ours = {"help", "config"}.union(*(vars(base).get("__annotations__", ()) for base in classes if base not in foreign))
    group = parser.add_argument_group("options of Fovea, and those with a default of its own")
    theirs = parser._optionals
    group._group_actions = [action for action in theirs._group_actions if action.dest in ours]
    theirs._group_actions = [action for action in theirs._group_actions if action.dest not in ours]
    theirs.title = "options of TRL and Transformers"
    parser._action_groups.sort(key=lambda one: one is not group)


_SAID = "_said"
"""The attribute of parsed settings that names what files and command line said, be it the default."""


def asked_fields(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, and those that were asked for at theirs.

    To ask for false, 0 or nothing where that is the default asks for nothing.
    """
    said = vars(settings).get(_SAID, ())
    asked = {}
    for field in dataclasses.fields(settings):
        make = field.default_factory
        default = field.default if make is dataclasses.MISSING else make()
        value = getattr(settings, field.name)
        if value != default or (value and field.name in said):
            asked[field.name] = value
    return asked


def find_config(name: str) -> Path:
    """The YAML file called `name`: a path, or the name of a shipped one.

    Raises:
        ConfigError: if there is none, with the names of those shipped.
    """
    for path in (Path(name), CONFIGS / name, CONFIGS / f"{name}.yaml"):
        if path.is_file():
            return path
    shipped = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))
    near = difflib.get_close_matches(name if name.endswith(".yaml") else f"{name}.yaml", shipped, n=1, cutoff=0.8)
    hint = f"did you mean {near[0]!r}?" if near else f"shipped are {', '.join(shipped)}"
    raise ConfigError(f"no config at {name}: {hint}")


def read_config(name: str) -> dict[str, Any]:
    """The settings in the YAML file called `name`.

    Raises:
        ConfigError: if there is none (`find_config`), or it is no YAML of `key: value` lines, with the place.
    """
    path = find_config(name)
    try:
        data = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must hold `key: value` lines, not a {type(data).__name__}")
    return data


def _unknown(key: str, known: set[str], where: str) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return f"unknown option {key!r} {where}" + (f": did you mean {near[0]!r}?" if near else "")
