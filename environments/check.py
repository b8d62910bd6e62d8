"""Checks an environment of your own: `fovea check-env ./mine.py:MyEnvironment`.

It must reset completely, offer documented tools, answer calls with text or content blocks, blame the model only by
`ModelFault`, and play the same episode twice.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from typing import Any

from PIL import Image
from transformers.utils import get_json_schema

from environments.seats import awaited, tools_of
from fovea.commands import plain_parser
from fovea.episodes import ModelFault
from fovea.images import image_hash
from fovea.plugins import load_object
from fovea.tasks import Task


class EnvironmentCheckError(AssertionError):
    """What is wrong with an environment, and how to mend it."""


def check_environment(
    factory: Callable[[], Any], *, task: Task | None = None, calls: Sequence[tuple[str, dict]] = ()
) -> list[str]:
    """Names of the checks that passed; `calls` are tool calls (name, arguments) to try on `task`.

    Raises:
        EnvironmentCheckError: at the first failure.
    """
    task = task or Task("check", (Image.new("RGB", (320, 240), "navy"),), "What is there?", "nothing")
    passed = []
    try:
        environment = factory()
    except Exception as error:
        raise EnvironmentCheckError(f"it cannot be made without arguments, as trainings make it: {error!r}") from error
    tools = tools_of(environment)
    _require(callable(getattr(environment, "reset", None)), "it has no method reset(**row)")
    passed.append("has reset")
    for name, tool in tools.items():
        try:
            get_json_schema(tool)
        except Exception as error:
            raise EnvironmentCheckError(
                f"tool {name} has no usable schema ({error}): annotate its arguments and describe each under Args:"
            ) from error
    passed.append(f"documents its tools: {', '.join(tools) or 'none'}")
    if others := _no_tools(environment, tools):
        passed.append(f"has public callables that are no tools by TRL's rule: {', '.join(others)}")
    first = _content(environment.reset(**task.row()), "reset")
    again = _content(environment.reset(**task.row()), "reset")
    _require(first == again, "reset gives something else the second time: it must not keep anything from before")
    passed.append("resets to the same opening")
    for name, arguments in calls:
        _require(name in tools, f"there is no tool {name!r} to call")
        fresh = factory()
        fresh.reset(**task.row())
        environment.reset(**task.row())
        expected = _outcome(tools_of(fresh)[name], arguments, name)
        _require(
            _outcome(tools[name], arguments, name) == expected,
            f"{name}({arguments}) answers differently in a used environment than in a fresh one: reset must clear all",
        )
        passed.append(f"answers {name} the same after a reset")
    if tools:
        fault = _outcome(next(iter(tools.values())), {}, next(iter(tools)), allow_type_error=True)
        passed.append(f"bears a call without arguments ({fault[0]})")
    return passed


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


def _content(value: Any, where: str) -> list[tuple[str, str]]:
    """Content in a form that can be compared, after checking its shape."""
    if value is None or isinstance(value, str):
        return [("text", value or "")]
    _require(isinstance(value, list), f"{where} returns {type(value).__name__}: return None, text, or a list of blocks")
    plain = []
    for block in value:
        kind = block.get("type") if isinstance(block, dict) else None
        _require(kind in ("text", "image"), f"{where} returns a block of type {kind!r}: use text or image")
        if kind == "image":
            _require(isinstance(block.get("image"), Image.Image), f"{where} returns an image block without a PIL image")
            plain.append(("image", image_hash(block["image"])))
        else:
            plain.append(("text", str(block.get("text"))))
    return plain


def _outcome(tool: Callable, arguments: dict, name: str, *, allow_type_error: bool = False) -> list:
    try:
        return _content(awaited(tool(**copy.deepcopy(arguments))), name)
    except ModelFault as fault:
        return [("fault", str(fault))]
    except TypeError as error:
        if allow_type_error:
            return [("needs arguments", "")]
        raise EnvironmentCheckError(f"tool {name} raised {error!r} on {arguments}") from error
    except Exception as error:
        raise EnvironmentCheckError(
            f"tool {name} raised {error!r} on {arguments}: raise ModelFault(kind, message) if the model is to blame"
        ) from error


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
