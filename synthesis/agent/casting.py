"""Who plays which role, by a word: `truth`, `rules`, a model, `NAME@https://host/v1`, or `./file.py:function`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from string import Formatter
from typing import Any

from fovea.config import ConfigError, read_config
from fovea.data.identity import digest
from fovea.endpoint import ChatEndpoint
from fovea.models.loading import load_model
from fovea.plugins import load_object
from synthesis.agent.chats import PROMPTS, Chat, ChatRole, EndpointChat, LocalChat
from synthesis.agent.functions import FunctionRole
from synthesis.agent.roles import MAX_TOKENS
from synthesis.agent.rules import Rules, Truth
from synthesis.agent.solving import Team

BY_RULE = ("adjust", "verify", "summarise")
"""Roles that rules play where nobody is named."""


@dataclass(kw_only=True)
class RoleArguments:
    """The chat models that play roles."""

    prompts: str | None = field(default=None, metadata={"help": "YAML with other words for roles of chat models."})
    temperature: float = field(default=0.7, metadata={"help": "Sampling temperature of chat models."})
    max_tokens: list[str] | None = field(
        default=None,
        metadata={
            "help": "Most tokens of a role's replies, thoughts included, such as look=2048 for a model that thinks."
        },
    )
    max_asks: int = field(default=3, metadata={"help": "Times that a role is asked for an answer that can be used."})


def cast_roles(
    words: Mapping[str, str | None], agent: str | None, chats: RoleArguments, *, seed: int, cache_folder: Path
) -> Team:
    """The team that these words name; `agent` stands for every role without a word of its own.

    Raises:
        ConfigError: for a role that nobody plays, or a word that names nobody.
    """
    prompts, max_tokens = read_prompts(chats.prompts, PROMPTS), tokens_of(chats.max_tokens, MAX_TOKENS)
    named = {"truth": lambda: Truth(seed), "rules": lambda: Rules(seed)}
    of_chat = partial(ChatRole, prompts=prompts, max_tokens=max_tokens)
    player = Casting(named, of_chat, FunctionRole, chats.temperature, cache_folder).player
    chosen = chosen_words(words, agent, dict.fromkeys(BY_RULE, "rules"))
    team = {role: player(word, role) for role, word in chosen.items()}
    return Team(**team)


def chosen_words(words: Mapping[str, str | None], agent: str | None, by_default: Mapping[str, str]) -> dict[str, str]:
    """The word of each role: its own, else the agent's, else the default.

    Raises:
        ConfigError: for a role that nobody plays.
    """
    chosen = {role: word or agent or by_default.get(role) for role, word in words.items()}
    missing = [role for role, word in chosen.items() if word is None]
    if missing:
        raise ConfigError(f"nobody plays {' and '.join(missing)}: give --{missing[0]}, or --agent for all roles")
    return {role: str(word) for role, word in chosen.items()}


def tokens_of(words: Sequence[str] | None, defaults: Mapping[str, int]) -> dict[str, int]:
    """The most tokens of each role's replies: the defaults, and what the words of `--max_tokens` change in them.

    >>> tokens_of(["look=2048"], {"locate": 128, "look": 256})
    {'locate': 128, 'look': 2048}

    Raises:
        ConfigError: for a word that names no role, or no number from 1.
    """
    chosen = dict(defaults)
    for word in words or ():
        role, _, number = word.partition("=")
        if role not in defaults or not number.isdigit() or int(number) < 1:
            known = " ".join(f"{name}={most}" for name, most in defaults.items())
            raise ConfigError(f"--max_tokens {word}: write ROLE=N with N from 1; the defaults are {known}")
        chosen[role] = int(number)
    return chosen


def content_of(word: str | None) -> str:
    """A hash of the file that a role's word or --prompts names, "" where it names none: what it says may change."""
    name = (word or "").rpartition(":")[0] or word or ""
    return digest(Path(name).read_text()) if name and Path(name).is_file() else ""


def player_of(word: str) -> str:
    """Who a word names, wherever that is: a model without its server, a function by what its file says.

    >>> player_of("Qwen/Qwen3-8B@http://localhost:8000/v1"), player_of("runs/my_model"), player_of("truth")
    ('Qwen/Qwen3-8B', 'runs/my_model', 'truth')
    """
    content, function = content_of(word), word.rpartition(":")[2]
    return f"{content}:{function}" if content else word.partition("@http")[0]


@dataclass(frozen=True)
class Casting:
    """Makes players of words: by their own name, of a chat model, or of a function."""

    by_name: Mapping[str, Callable[[], Any]]
    of_chat: Callable[[Chat], Any]
    of_function: Callable[[Callable], Any]
    temperature: float
    cache_folder: Path
    _known: dict[str, Any] = field(default_factory=dict)

    def player(self, word: str, role: str) -> Any:
        """The player that a word names, the same each time.

        Raises:
            ConfigError: for a word that names nobody, or nobody who can play the role.
        """
        if word not in self._known:
            self._known[word] = self._made(word)
        if not hasattr(self._known[word], role):
            raise ConfigError(f"--{role} {word}: it cannot {role}")
        return self._known[word]

    def is_chat(self, word: str) -> bool:
        """True if a word names a chat model, whose answers depend on prompt and temperature."""
        return word not in self.by_name and ("@http" in word or ":" not in word)

    def _made(self, word: str) -> Any:
        if word in self.by_name:
            return self.by_name[word]()
        if "@http" in word:
            name, _, address = word.partition("@http")
            answers = self.cache_folder / "answers.jsonl" if self.temperature == 0 else None
            return self.of_chat(EndpointChat(ChatEndpoint(f"http{address}", name, cache=answers), self.temperature))
        start = word.partition(":")[0]
        if "@" in start and not Path(start).exists():
            raise ConfigError(f"{word!r} has no address behind the @: write NAME@https://host/v1")
        try:
            if ":" in word:
                return self.of_function(load_object(word))
            return self.of_chat(LocalChat(load_model(word), self.temperature))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{word}: {error}") from error


def read_prompts(file: str | None, words: Mapping[str, str]) -> dict[str, str]:
    """Other words of roles from a YAML file, in place of `words`.

    Raises:
        ConfigError: for a role that there is not, or a place in its words that is not filled.
    """
    if file is None:
        return {}
    prompts = read_config(file)
    for role, prompt in prompts.items():
        if role not in words:
            raise ConfigError(f"{file}: there is no role {role!r}, but {', '.join(words)}")
        filled = [name for _, name, _, _ in Formatter().parse(words[role]) if name]
        try:
            prompt.format(**dict.fromkeys(filled, ""))
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ConfigError(f"{file}: {role} may hold {{{'}, {'.join(filled)}}}, and not {error}") from error
    return prompts
