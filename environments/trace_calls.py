"""Tool calls of traces as JSON: how OpenAI, Hermes, LLaMA-Factory and ms-swift write them, as tags in a text."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from typing import Any

from fovea.placeholders import escaped


class CallError(ValueError):
    """A call that cannot be read, and the reason."""


def call_tag(call: Any) -> str:
    """A call as a `<tool_call>` tag; arguments that are null, as Arrow files fill them in, are left out.

    Raises:
        CallError: for one without a name, or whose arguments cannot be read.
    """
    call = read_literal(call) if isinstance(call, str) else call
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise CallError(f"holds {call!r:.200}: it must be {{function: {{name, arguments}}}}")
    arguments = function.get("arguments", function.get("parameters", {}))
    try:
        arguments = read_literal(arguments) if isinstance(arguments, str) else arguments
    except CallError as error:
        raise CallError(f"arguments {arguments!r:.200} are no JSON ({error.__cause__})") from None
    if isinstance(arguments, Mapping):
        arguments = {name: value for name, value in arguments.items() if value is not None}
    written = json.dumps({"name": function["name"], "arguments": arguments})
    return f"<tool_call>\n{escaped(written)}\n</tool_call>"


def read_literal(text: str) -> Any:
    """The value of a text in JSON, or in a Python literal as older data have it. The text is never executed.

    Raises:
        CallError: for a text that is neither.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        try:
            return ast.literal_eval(text.strip())
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            raise CallError(f"{text!r:.200} is no JSON ({error})") from error
