"""Who plays which role, by a word: `truth`, `rules`, a model, `NAME@https://host/v1`, or `./file.py:function`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from fovea.config import ConfigError, find_config
from fovea.endpoint import ChatEndpoint
from fovea.models.loading import load_model
from fovea.plugins import load_object
from synthesis.agent.chats import PROMPTS, ChatRole, EndpointChat, LocalChat
from synthesis.agent.functions import FunctionRole
from synthesis.agent.roles import NAMES
from synthesis.agent.rules import Rules, Truth
from synthesis.agent.solving import Team

BY_RULE = ("adjust", "verify", "summarise")
"""Roles that rules play where nobody is named."""
FILLED = {
    "locate": ("target", "form"),
    "look": ("question",),
    "adjust": ("box", "advice", "form"),
    "verify": ("question", "reference", "answer"),
    "summarise": ("question", "steps", "answer", "count"),
}
"""The places in the words of each role."""


def cast_roles(
    words: Mapping[str, str | None], agent: str | None, *, temperature: float, prompts: str | None, seed: int,
    cache_folder: Path,
) -> Team:  # fmt: skip
    """The team that these words name; `agent` stands for every role without a word of its own.

    Raises:
        ConfigError: for a role that nobody plays, or a word that names nobody.
    """
    changed = read_prompts(prompts)

    @cache
    def player(word: str) -> Any:
        if word in ("truth", "rules"):
            return Truth(seed) if word == "truth" else Rules(seed)
        if "@http" in word:
            name, _, address = word.partition("@http")
            answers = cache_folder / "answers.jsonl" if temperature == 0 else None
            return ChatRole(EndpointChat(ChatEndpoint(f"http{address}", name, cache=answers), temperature), changed)
        start = word.partition(":")[0]
        if "@" in start and not Path(start).exists():
            raise ConfigError(f"{word!r} has no address behind the @: write NAME@https://host/v1")
        try:
            return FunctionRole(load_object(word)) if ":" in word else ChatRole(
                LocalChat(load_model(word), temperature), changed)  # fmt: skip
        except (OSError, ValueError) as error:
            raise ConfigError(f"{word}: {error}") from error

    chosen = {role: words.get(role) or agent or ("rules" if role in BY_RULE else None) for role in NAMES}
    missing = [role for role, word in chosen.items() if word is None]
    if missing:
        raise ConfigError(f"nobody plays {' and '.join(missing)}: give --{missing[0]}, or --agent for all roles")
    team = {role: player(str(word)) for role, word in chosen.items()}
    for role, one in team.items():
        if not hasattr(one, role):
            raise ConfigError(f"--{role} {chosen[role]}: it cannot {role}")
    return Team(**team)


def read_prompts(file: str | None) -> dict[str, str]:
    """Words of roles from a YAML file.

    Raises:
        ConfigError: for a role that there is not, or a place in its words that is not filled.
    """
    if file is None:
        return {}
    prompts = yaml.safe_load(find_config(file).read_text()) or {}
    for role, prompt in prompts.items():
        if role not in PROMPTS:
            raise ConfigError(f"{file}: there is no role {role!r}, but {', '.join(PROMPTS)}")
        try:
            prompt.format(**dict.fromkeys(FILLED[role], ""))
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ConfigError(f"{file}: {role} may hold {{{'}, {'.join(FILLED[role])}}}, and not {error}") from error
    return prompts
