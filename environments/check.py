"""Checks an environment of your own: `fovea check-env ./mine.py:MyEnvironment`.

It must reset completely, offer documented tools, answer calls with text or content blocks, blame the model only by
`ModelFault`, play the same episode twice, and share nothing with another episode.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from PIL import Image
from transformers.utils import get_json_schema

from environments.content import content_of
from environments.seats import opening, system_prompt_of, tools_of
from fovea.awaiting import awaited
from fovea.commands import plain_parser
from fovea.episodes import ModelFault
from fovea.images import image_hash
from fovea.plugins import load_object
from fovea.tasks import Task


class EnvironmentCheckError(AssertionError):
    """A mistake in an environment, with its cure."""


def check_environment(
    factory: Callable[[], Any], *, task: Task | None = None, calls: Sequence[tuple[str, dict]] = ()
) -> list[str]:
    """Names of the checks that passed; `calls` are tool calls (name, arguments) to try on `task`.

    Tools without calls are tried with arguments of the types that they ask for.

    Raises:
        EnvironmentCheckError: at the first failure.
    """
    task = task or _task("navy")
    passed = []
    environment, tools = _made(factory)
    _require(callable(getattr(environment, "reset", None)), "it has no method reset(**row)")
    passed.append("has reset")
    schemas = {name: _schema(name, tool) for name, tool in tools.items()}
    passed.append(f"documents its tools: {', '.join(tools) or 'none'}")
    if others := _no_tools(environment, tools):
        passed.append(f"has public callables that are no tools by TRL's rule: {', '.join(others)}")
    first, again = _opened(environment, task), _opened(environment, task)
    _require(first == again, "reset gives something else the second time: it must not keep anything from before")
    passed += ["resets to the same opening", _described(first, task, environment)]
    called = {name for name, _ in calls}
    made = {name: made_up(schemas[name]) for name in tools if name not in called}
    passed += [f"{name} was not tried: no arguments can be made up for it" for name, one in made.items() if one is None]
    for name, arguments in [*calls, *((name, one) for name, one in made.items() if one is not None)]:
        _require(name in tools, f"there is no tool {name!r} to call")
        _check_call(factory, environment, task, name, arguments)
        passed.append(f"answers {name} the same after a reset, and beside another episode")
    for name, tool in tools.items():
        [(kind, text), *_] = _outcome(tool, {}, name, allow_type_error=True)
        passed.append(f"{name} bears a call without arguments ({f'{kind}: {text}'[:80].strip(': ')})")
    return passed


def _task(color: str) -> Task:
    return Task("check", (Image.new("RGB", (320, 240), color),), "What is there?", "nothing")


def _made(factory: Callable[[], Any]) -> tuple[Any, dict[str, Callable]]:
    try:
        environment = factory()
    except Exception as error:
        raise EnvironmentCheckError(f"it cannot be made without arguments, as trainings make it: {error!r}") from error
    return environment, tools_of(environment)


def _schema(name: str, tool: Callable) -> dict[str, Any]:
    """The JSON schema of a tool's parameters."""
    try:
        schema = get_json_schema(tool)["function"]["parameters"]
    except Exception as error:
        raise EnvironmentCheckError(
            f"tool {name} has no usable schema ({error}): annotate its arguments and describe each under Args:"
        ) from error
    by_position = [one.name for one in inspect.signature(tool).parameters.values() if one.kind is one.POSITIONAL_ONLY]
    _require(not by_position, f"tool {name} takes {', '.join(by_position)} by position: models call by name")
    return schema


MADE_UP = {"string": "a", "integer": 0, "number": 0.5, "boolean": True, "object": {}}
"""Values by their type in a schema."""


def made_up(schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """Arguments that fit the JSON schema of a tool's parameters: those that it requires; None where none is known."""
    try:
        return {name: _value(schema["properties"][name]) for name in schema.get("required", ())}
    except KeyError:
        return None


def _value(schema: Mapping[str, Any]) -> Any:
    """A value that fits a schema. Raises KeyError for one of a type that is not known."""
    if options := schema.get("enum") or schema.get("choices"):
        return options[0]
    if "anyOf" in schema:
        return _value(next(one for one in schema["anyOf"] if one.get("type") != "null"))
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind != "array":
        return MADE_UP[str(kind)]
    if "prefixItems" in schema:
        return [_value(item) for item in schema["prefixItems"]]
    # Four numbers are the box that most tools with numbers take.
    return [0.1, 0.1, 0.9, 0.9] if schema["items"].get("type") == "number" else [_value(schema["items"])]


def _opened(environment: Any, task: Task) -> list[tuple[str, str]]:
    """The first user message of an episode, in a form that can be compared."""
    try:
        return _compared(opening(environment, task)[1]["content"])
    except (ValueError, TypeError) as error:
        raise EnvironmentCheckError(str(error)) from error


def _described(opened: Sequence[tuple[str, str]], task: Task, environment: Any) -> str:
    """The images of the task that an opening shows, and its prompt, in words."""
    text = "".join(text for kind, text in opened if kind == "text")
    images = sum(kind == "image" for kind, _ in opened)
    asks = "its question" if task.question in text else "NOT its question"
    prompt = "a prompt of its own" if hasattr(environment, "system_prompt") else f"{system_prompt_of(environment)!r}"
    return f"shows {images} of {len(task.images)} images of a task and {asks}, behind {prompt}"


def _check_call(factory: Callable[[], Any], used: Any, task: Task, name: str, arguments: dict) -> None:
    """A call is answered alike in a fresh environment, in a used one, and while another episode is under way."""
    fresh, _ = _made(factory)
    opening(fresh, task)
    expected = _outcome(tools_of(fresh)[name], arguments, name)
    for _ in range(2):
        opening(used, task)
        answer = _outcome(tools_of(used)[name], arguments, name)
    _require(
        answer == expected,
        f"{name}({arguments}) answers differently in a used environment than in a fresh one: reset must clear all",
    )
    opening(used, task)
    beside, _ = _made(factory)
    opening(beside, _task("red"))
    _require(
        _outcome(tools_of(used)[name], arguments, name) == expected,
        f"{name}({arguments}) answers differently while another episode is under way: keep what an episode needs in "
        "the instance (self), not in the class or the module",
    )


def _no_tools(environment: Any, tools: Collection[str]) -> list[str]:
    """Public callables that a model is not offered: class methods, and attributes that happen to be callable."""
    known = {"reset", "get_reward", *tools}
    names = {**vars(type(environment)), **vars(environment)}
    return [
        name
        for name, value in names.items()
        if not name.startswith("_") and name not in known and (isinstance(value, classmethod) or callable(value))
    ]


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise EnvironmentCheckError(problem)


def _compared(blocks: Sequence[dict]) -> list[tuple[str, str]]:
    """Blocks in a form that can be compared."""
    return [
        ("image", image_hash(block["image"])) if block["type"] == "image" else ("text", block["text"])
        for block in blocks
    ]


def _outcome(tool: Callable, arguments: dict, name: str, *, allow_type_error: bool = False) -> list[tuple[str, str]]:
    try:
        value = awaited(tool(**copy.deepcopy(arguments)))
    except ModelFault as fault:
        return [("fault", str(fault))]
    except TypeError as error:
        if allow_type_error:
            return [("needs arguments", "")]
        raise EnvironmentCheckError(f"tool {name} raised {error!r} on {arguments}: mend its code") from error
    except Exception as error:
        raise EnvironmentCheckError(
            f"tool {name} raised {error!r} on {arguments}: raise ModelFault(kind, message) if the model is to blame"
        ) from error
    _require(
        value is not None,
        f"tool {name} returned None on {arguments}, and the model would read 'None': return text or an image",
    )
    try:
        return _compared(content_of(value, f"tool {name}"))
    except TypeError as error:
        raise EnvironmentCheckError(str(error)) from error


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("environment", help="package.module:Class or ./file.py:Class")
    args = parser.parse_args()
    try:
        for line in check_environment(load_object(args.environment)):
            print(f"ok   {line}")
    except (EnvironmentCheckError, ValueError) as error:
        raise SystemExit(f"{args.environment}: {error}") from error


if __name__ == "__main__":
    main()
