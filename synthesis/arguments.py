"""Options that all makers of traces have under the same names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path

from environments.arguments import EpisodeArguments
from fovea.arguments import PixelArguments, TaskArguments
from fovea.config import ConfigError


@dataclass(kw_only=True)
class TraceSourceArguments(TaskArguments, PixelArguments):
    """The tasks that become traces, the model they are for, and the output folder."""

    output_dir: str = field(metadata={"help": "Folder for traces.jsonl and the images as the model sees them."})
    dataset_name: str = field(
        default="", metadata={"help": "Tasks: file, folder or hub id (default: fresh procedural scenes)."}
    )
    model_name_or_path: str = field(
        default="tiny", metadata={"help": "The model to be trained: its processor and frame make the traces."}
    )


def part_of(shard: str) -> tuple[int, int]:
    """The number of the part that `--shard I/N` names, and the number of parts.

    >>> part_of("3/16")
    (3, 16)

    Raises:
        ConfigError: for one that there is not.
    """
    number, _, count = shard.partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise ConfigError(f"--shard {shard!r}: write I/N with I from 0 to N - 1, such as 3/16")
    return int(number), int(count)


def for_one_pass(episodes: EpisodeArguments) -> EpisodeArguments:
    """The arguments without a cache of images: each is shown once."""
    return replace(episodes, image_cache_gib=min(episodes.image_cache_gib, 1 / 64))


def refuse_own_folder(folder: Path, sources: Iterable[Path]) -> None:
    """Raises ConfigError for an output folder that holds one of the sources: their images would be overwritten."""
    for source in sources:
        if source.exists() and folder.resolve() in (source.resolve(), source.resolve().parent):
            raise ConfigError(f"--output_dir {folder} holds {source}, which is read: name another folder")


def refuse_full_folder(folder: Path) -> None:
    """Raises ConfigError for an output folder that holds traces or tasks: old and new images would bear one name."""
    names = ("traces.jsonl", "traces.json", "prompts.parquet", "tasks.jsonl", "tasks", "images", "held_out")
    if present := [name for name in names if (folder / name).exists()]:
        raise ConfigError(f"--output_dir {folder} holds {present[0]} already: use another folder, or delete it")


def unused(name: str, used: set[str]) -> str:
    """The name, or with a number behind it the first that is not used yet; it is used from now on.

    >>> used = set()
    >>> unused("a", used), unused("a", used), unused("a", used)
    ('a', 'a#2', 'a#3')
    """
    free = next(one for one in chain([name], (f"{name}#{number}" for number in count(2))) if one not in used)
    used.add(free)
    return free


def with_names(words: Sequence[str], *names: str) -> list[str]:
    """A command line whose first words may stand without the options that they are for.

    >>> with_names(["a.json", "out", "--to", "trl"], "--dataset_name", "--output_dir")
    ['--dataset_name', 'a.json', '--output_dir', 'out', '--to', 'trl']
    """
    named: list[str] = []
    for place, word in enumerate(words):
        if place == len(names) or word.startswith("-"):
            return [*named, *words[place:]]
        named += [names[place], word]
    return named
