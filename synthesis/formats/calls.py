"""Calls as JSON, in the forms of OpenAI, Hermes, LLaMA-Factory and ms-swift."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from environments.protocol import behind_thoughts
from environments.traces import TraceError
from fovea.placeholders import escaped


def call_tag(call: Any, where: str) -> str:
    """A call as a `<tool_call>` tag, from the forms of OpenAI, Hermes and ms-swift.

    Raises:
        TraceError: for one without a name, or whose arguments cannot be read.
    """
    call = loaded_of(call, where) if isinstance(call, str) else call
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise TraceError(f"{where} holds the call {short(call)}: it must be {{name, arguments}}")
    arguments = function.get("arguments", function.get("parameters", {}))
    arguments = loaded_of(arguments, where) if isinstance(arguments, str) else arguments
    if not isinstance(arguments, Mapping):
        raise TraceError(f"{where} holds the arguments {short(arguments)}: they must be an object")
    given = {name: value for name, value in arguments.items() if value is not None}
    return f"<tool_call>\n{escaped(json.dumps({'name': function['name'], 'arguments': given}))}\n</tool_call>"


def loaded(text: str) -> Any:
    """What a text of JSON says, or of a Python literal, as older data writes it; never evaluated.

    Raises:
        ValueError: for a text that is neither.
    """
    try:
        return json.loads(text)
    except ValueError:
        try:
            return ast.literal_eval(text.strip())
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            pass
        raise


def loaded_of(text: str, where: str) -> Any:
    """The same, for a text that stands at `where`.

    Raises:
        TraceError: for a text that is neither.
    """
    try:
        return loaded(text)
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{where} holds {short(text)}, which is no JSON ({error})") from None


def short(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) < 120 else f"{text[:120]}…"


def thought_and_json(text: str) -> tuple[str, str]:
    """What stands before the JSON of a call, and the JSON; brackets in the thought are no JSON."""
    start = len(behind_thoughts(text)[0])
    places = [start + match.start() for match in re.finditer(r"[\[{]", text[start:])]
    for place in places:
        with suppress(ValueError, RecursionError):
            if isinstance(loaded(text[place:]), (dict, list)):
                return text[:place].strip(), text[place:].strip()
    place = places[0] if places else len(text)
    return text[:place].strip(), text[place:].strip()
