"""JSON and Python literals within the texts of a row."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from environments.protocol import behind_thoughts
from environments.trace_calls import CallError, read_literal
from environments.traces import TraceError


def literal_at(text: str, where: str) -> Any:
    """The value of a text; `where` names its place in errors.

    Raises:
        TraceError: for a text that is neither JSON nor a literal.
    """
    try:
        return read_literal(text)
    except CallError as error:
        raise TraceError(f"{where} holds {error}") from None


def short(value: Any) -> str:
    """A value for a message."""
    return f"{value!r:.120}"


def thought_and_json(text: str) -> tuple[str, str]:
    """The text before the JSON of a call, and the JSON. Brackets in the thought do not count as JSON."""
    start = len(behind_thoughts(text)[0])
    places = [start + match.start() for match in re.finditer(r"[\[{]", text[start:])]
    for place in places:
        with suppress(CallError):
            if isinstance(read_literal(text[place:]), (dict, list)):
                return text[:place].strip(), text[place:].strip()
    place = places[0] if places else len(text)
    return text[:place].strip(), text[place:].strip()
