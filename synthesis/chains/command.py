"""Multi-image chains from pictures: `fovea traces chains --images DIR --agent NAME@URL --output_dir DIR`.

Five stages: profiles of images (extract), pairs (connect), how they relate (annotate), questions along connected paths
(ask), and checks (look). Each is a file in the folder, of lines that can be mended by hand; the same command goes on
where it stopped, and makes anew what follows from a mended line. What passes becomes tasks with chains and traces of
--environment focus (calls) or chain (one text). Without --images a pool of procedural scenes is drawn, whose truth
plays every role. For many processes: one stage at a time, `--stage connect --shard 3/16`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from environments.arguments import EpisodeArguments
from fovea.config import ConfigError, parse
from fovea.runs.directory import RunDirectory, changes
from fovea.server import EndpointError
from synthesis.agent.casting import Casting, chosen_words, content_of, player_of, read_prompts, tokens_of
from synthesis.chains.arguments import ChainArguments
from synthesis.chains.building import Builder
from synthesis.chains.chats import WORDS, ChainChat, ChainFunction
from synthesis.chains.pool import image_paths, pool_of
from synthesis.chains.roles import MAX_TOKENS, NAMES
from synthesis.chains.truth import SCENES, Truth, draw_pool
from synthesis.chains.writing import write

POOL = "pool"
"""The folder of drawn scenes."""
FREE_SETTINGS = re.compile("(?!(num_scenes|seed)$).*")
"""Settings that may change when a pool was drawn: lines know by their keys what they were made of."""


@dataclass(frozen=True)
class Cast:
    """Who plays each role, made when the role is first asked, and the words by which lines of its stage are known."""

    casting: Casting
    chosen: Mapping[str, str]
    prompts: Mapping[str, str]

    def __getitem__(self, role: str) -> Any:
        return self.casting.player(self.chosen[role], role)

    @cached_property
    def words(self) -> Mapping[str, str]:
        """All that an answer of a role hangs on, its question apart: who answers, but not where it is served."""
        return {role: self._words(role) for role in self.chosen}

    def _words(self, role: str) -> str:
        word = self.chosen[role]
        said = f" {self.casting.temperature} {self._prompt(role)}" if self.casting.is_chat(word) else ""
        return f"{player_of(word)}{said}"

    @cached_property
    def former_words(self) -> Mapping[str, str]:
        """The words as earlier versions wrote them, the addresses of servers and files included."""
        return {
            role: f"{word} {content_of(word)} {self.casting.temperature} {self._prompt(role)}"
            for role, word in self.chosen.items()
        }

    def _prompt(self, role: str) -> str:
        return self.prompts.get(role, WORDS[role])


def cast(arguments: ChainArguments) -> Cast:
    """Who plays each role.

    Raises:
        ConfigError: for a role that nobody plays.
    """
    folder = Path(arguments.output_dir)
    prompts = read_prompts(arguments.prompts, WORDS)
    of_chat = partial(ChainChat, prompts=prompts, max_tokens=tokens_of(arguments.max_tokens, MAX_TOKENS))
    by_name = {"truth": lambda: Truth(folder / POOL)}
    casting = Casting(by_name, of_chat, ChainFunction, arguments.temperature, folder)
    words = {role: getattr(arguments, role) for role in NAMES}
    chosen = chosen_words(words, arguments.agent, {} if arguments.images else dict.fromkeys(NAMES, "truth"))
    if arguments.images and "truth" in chosen.values():
        raise ConfigError("the truth of your own pictures is not known: name a model or a function in place of truth")
    return Cast(casting, chosen, prompts)


def run(arguments: ChainArguments, episodes: EpisodeArguments) -> Path:
    """Works on the stages and writes what passed; the folder.

    Raises:
        ConfigError: for settings that cannot be, or a stage that needs another one first.
    """
    directory = RunDirectory(arguments.output_dir)
    folder = directory.path
    players = cast(arguments)
    settings = {"chains": arguments, "episodes": episodes}
    source = arguments.images or str(folder / POOL / "images")
    if not arguments.images:
        is_drawn = (folder / POOL / SCENES).exists()
        if is_drawn and (changed := list(changes(directory.settings(), settings, free=FREE_SETTINGS))):
            raise ConfigError(f"{folder} holds other scenes ({'; '.join(changed)}): use another --output_dir")
        if not is_drawn:
            draw_pool(folder / POOL, arguments.num_scenes, arguments.seed)
    paths = image_paths(source, folder)
    directory.write_start(**settings, evaluation={"dataset_name": str(folder / "tasks"), "output_dir": str(folder)})
    builder = Builder(arguments, players, pool_of(paths, folder, arguments.num_workers))
    builder.run()
    if arguments.stage in ("all", "write"):
        print(write(builder, episodes))
    return folder


def main() -> None:
    arguments, episodes = parse(
        (ChainArguments, EpisodeArguments), defaults={"environment": "focus", "max_turns": 16}, description=__doc__
    )
    try:
        folder = run(arguments, episodes)
    except EndpointError as error:
        done = f"What was answered is in {arguments.output_dir}: the same command goes on with it"
        raise SystemExit(f"{error}\n{done}") from error
    except (FileNotFoundError, ValueError, RuntimeError) as error:
        raise SystemExit(str(error)) from error
    print(f"written to {folder}; the traces as pages: fovea report {folder}")


if __name__ == "__main__":
    main()
