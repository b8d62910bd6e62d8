"""Multi-image chains from pictures: `fovea traces chains --images DIR --agent NAME@URL --output_dir DIR`.

Five stages: profiles of images (extract), pairs (connect), how they relate (annotate), questions along connected paths
(ask), and checks (look). Each is a file in the folder, of lines that can be mended by hand; the same command goes on
where it stopped, and makes anew what follows from a mended line. What passes becomes tasks with chains and traces of
--environment focus (calls) or chain (one text). Without --images a pool of procedural scenes is drawn, whose truth
plays every role. For many processes: one stage at a time, `--stage connect --shard 3/16`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from environments.arguments import EpisodeArguments
from fovea.arguments import PixelArguments
from fovea.config import ConfigError, parse
from fovea.runs.directory import RunDirectory, changes
from synthesis.agent.casting import Casting, read_prompts
from synthesis.chains.building import Builder, Plan, pool_of
from synthesis.chains.chats import WORDS, ChainChat, ChainFunction
from synthesis.chains.roles import NAMES
from synthesis.chains.stages import Shard
from synthesis.chains.truth import SCENES, Truth, draw_pool
from synthesis.chains.writing import write

POOL = "pool"
"""Where scenes are drawn."""
FREE_SETTINGS = re.compile("(?!(images|num_scenes)$).*")
"""Settings that may change when the command goes on: lines know by their keys what they were made of."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(kw_only=True)
class ChainArguments(PixelArguments):
    """Which pictures, for which model, who plays which role, and how many chains."""

    output_dir: str = field(metadata={"help": "Folder for the stages' files, tasks and traces."})
    images: str = field(
        default="", metadata={"help": "Folder of pictures, or a text file of their paths (default: scenes are drawn)."}
    )
    num_scenes: int = field(default=100, metadata={"help": "Scenes to draw where no pictures are named."})
    model_name_or_path: str = field(
        default="tiny", metadata={"help": "The model to be trained: its processor and frame make the traces."}
    )
    agent: str | None = field(
        default=None,
        metadata={
            "help": "Who plays the roles that no other option names: NAME@https://host/v1 (an OpenAI-compatible "
            "endpoint, OPENAI_API_KEY its key), a model folder or hub id, ./file.py:function, or truth (drawn scenes; "
            "there the default)."
        },
    )
    extract: str | None = field(default=None, metadata={"help": "Who describes an image (a vision-language model)."})
    connect: str | None = field(default=None, metadata={"help": "Who connects two descriptions (a language model)."})
    annotate: str | None = field(default=None, metadata={"help": "Who says how two images relate."})
    ask: str | None = field(default=None, metadata={"help": "Who writes the questions (a language model)."})
    look: str | None = field(default=None, metadata={"help": "Who answers questions in the checks."})
    prompts: str | None = field(default=None, metadata={"help": "YAML with other words for roles of chat models."})
    temperature: float = field(default=0.0, metadata={"help": "Sampling temperature of chat models."})
    num_candidates: int = field(
        default=4, metadata={"help": "Pairs that are asked about: each image with so many nearest by their profiles."}
    )
    num_chains: int = field(default=500, metadata={"help": "Paths along which questions are asked, at most."})
    num_images: list[int] = field(default_factory=lambda: [2, 3, 4], metadata={"help": "Images of a path."})
    num_distractors: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Images of an album beside those of its path."}
    )
    max_uses: int = field(default=3, metadata={"help": "Paths on which one pair of images may be."})
    max_asks: int = field(default=3, metadata={"help": "Times that a role is asked for an answer that can be used."})
    num_workers: int = field(default=16, metadata={"help": "Requests that are under way side by side."})
    stage: str = field(
        default="all", metadata={"help": "One stage alone, as shards need it.", "choices": ["all", *NAMES, "write"]}
    )
    shard: str = field(default="0/1", metadata={"help": "Which part of a stage: 3/16 is the fourth of sixteen."})
    seed: int = field(default=0, metadata={"help": "Seed of scenes, of paths and of the order of images."})

    def __post_init__(self) -> None:
        number, _, count = self.shard.partition("/")
        if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
            raise ConfigError(f"--shard {self.shard!r}: write I/N with I from 0 to N - 1, such as 3/16")
        if int(count) > 1 and self.stage not in NAMES:
            raise ConfigError(f"--shard {self.shard} needs --stage: a stage begins when the one before is whole")
        if min(self.num_images, default=0) < 2 or min(self.num_distractors, default=-1) < 0:
            raise ConfigError("--num_images begins at 2, --num_distractors at 0")

    def part(self) -> Shard:
        number, _, count = self.shard.partition("/")
        return Shard(int(number), int(count))

    def plan(self) -> Plan:
        return Plan(
            self.num_candidates, self.num_chains, tuple(self.num_images), tuple(self.num_distractors), self.max_uses,
            self.max_asks, self.seed,
        )  # fmt: skip


def image_paths(source: str) -> list[Path]:
    """The pictures in a folder and below it, or those that a text file names line by line, beside itself.

    Raises:
        FileNotFoundError: where there is no such folder or file, or a picture that it names.
        ConfigError: if there are none.
    """
    where = Path(source)
    if where.is_dir():
        found = sorted(path for path in where.rglob("*") if path.suffix.lower() in SUFFIXES)
    elif where.is_file():
        found = [where.parent / line.strip() for line in where.read_text().splitlines() if line.strip()]
        if missing := [path for path in found if not path.is_file()]:
            raise FileNotFoundError(f"{where} names {missing[0]}, which is not there")
    else:
        raise FileNotFoundError(f"no pictures at {source}: give a folder, or a text file with a path in each line")
    if not found:
        raise ConfigError(f"{source} holds no pictures ({', '.join(SUFFIXES)})")
    return found


def cast(arguments: ChainArguments) -> tuple[dict[str, Any], dict[str, str]]:
    """Who plays each role, and the words by which lines of a stage are known.

    Raises:
        ConfigError: for a role that nobody plays, or a word that names nobody.
    """
    folder = Path(arguments.output_dir)
    prompts = read_prompts(arguments.prompts, WORDS)
    of_chat = partial(ChainChat, prompts=prompts)
    casting = Casting({"truth": lambda: Truth(folder / POOL)}, of_chat, ChainFunction, arguments.temperature, folder)
    agent = arguments.agent or (None if arguments.images else "truth")
    chosen = {role: getattr(arguments, role) or agent for role in NAMES}
    if missing := [role for role, word in chosen.items() if word is None]:
        raise ConfigError(f"nobody plays {' and '.join(missing)}: give --{missing[0]}, or --agent for all roles")
    if arguments.images and "truth" in chosen.values():
        raise ConfigError("the truth of your own pictures is not known: name a model or a function in place of truth")
    words = {role: f"{word} {prompts.get(role, WORDS[role])}" for role, word in chosen.items()}
    return {role: casting.player(str(word)) for role, word in chosen.items()}, words


def run(arguments: ChainArguments, episodes: EpisodeArguments) -> Path:
    """Works on the stages and writes what passed; the folder.

    Raises:
        ConfigError: for settings that cannot be, or a stage that needs another one first.
    """
    directory = RunDirectory(arguments.output_dir)
    folder = directory.path
    settings = {"chains": arguments, "episodes": episodes}
    if changed := list(changes(directory.settings(), settings, free=FREE_SETTINGS)):
        raise ConfigError(f"{folder} holds chains of other pictures ({'; '.join(changed)}): use another --output_dir")
    source = arguments.images or str(folder / POOL)
    if not arguments.images and not (folder / POOL / SCENES).exists():
        draw_pool(folder / POOL, arguments.num_scenes, arguments.seed)
    directory.write_start(**settings, evaluation={"dataset_name": str(folder / "tasks"), "output_dir": str(folder)})
    roles, words = cast(arguments)
    builder = Builder(folder, arguments.plan(), roles, words, pool_of(image_paths(source)))
    name = None if arguments.stage in ("all", "write") else arguments.stage
    stages = builder.run(name, arguments.part(), arguments.num_workers, works=arguments.stage != "write")
    if name is None:
        print(write(builder, stages, arguments, episodes))
    return folder


def main() -> None:
    arguments, episodes = parse(
        (ChainArguments, EpisodeArguments), defaults={"environment": "focus", "max_turns": 16}, description=__doc__
    )
    try:
        folder = run(arguments, episodes)
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        raise SystemExit(str(error)) from error
    print(f"written to {folder}; the traces as pages: fovea report {folder}")


if __name__ == "__main__":
    main()
