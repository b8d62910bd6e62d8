"""Probes of a tool's effect: an environment whose tools are shown but refused, or not shown."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from environments.prompts import VIEWS_PROMPT
from environments.seats import tools_of
from fovea.config import ConfigError

TOOL_MODES = ("true", "refused", "absent")
REFUSAL = "The tool cannot be used now. Answer from what you have seen."


def with_tools(environment_factory: Callable[[], Any], mode: str) -> Callable[[], Any]:
    """Makes the same environments with their tools as they are (true), refused, or absent.

    Refused tools are described to the model as ever, and every call of one is answered by `REFUSAL`. Without tools the
    system prompt is that of the environment `views`, which speaks of none; first views stay as they are.

    Raises:
        ValueError: for another mode.
        ConfigError: from what it returns, for an environment without tools.
    """
    if mode not in TOOL_MODES:
        raise ValueError(f"tools {mode!r} is unknown: use one of {', '.join(TOOL_MODES)}")
    if mode == "true":
        return environment_factory

    def make() -> Any:
        environment = environment_factory()
        kind = type(environment)
        names = tools_of(environment)
        if not names:
            raise ConfigError(f"{kind.__name__} has no tools that could be {mode}: leave out --tools and --arms")
        changed: dict[str, Any] = {name: None for name in names} | {"system_prompt": VIEWS_PROMPT}
        if mode == "refused":
            changed = {name: _refused(kind, name) for name in names}
        environment.__class__ = type(kind.__name__, (kind,), changed)
        return environment

    return make


def _refused(kind: type, name: str) -> Any:
    """A tool with the signature and the description of one of the class, by which alone a model knows it."""
    tool = getattr(kind, name)

    @wraps(tool)
    def refuse(*args: Any, **kwargs: Any) -> str:
        return REFUSAL

    return staticmethod(refuse) if isinstance(inspect.getattr_static(kind, name), staticmethod) else refuse
