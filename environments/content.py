"""Values that environments return from `reset` and from tools, as content blocks."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from datetime import date, time
from decimal import Decimal
from typing import Any, get_type_hints

from PIL import Image

_PLAIN = (str, bool, int, float, complex, Decimal, date, time, type(None))


def content_of(value: Any, where: str) -> list[dict[str, Any]]:
    """The blocks of text and images that a value stands for.

    It is a text, a number or other plain data (its text, as in TRL), a PIL image, a block, or a list of texts, images
    and blocks. Images are copied, since an environment may draw on its own later; not those of blocks that say
    `"is_shared": True`, which many episodes show and none draws on.

    Raises:
        TypeError: for anything else, by `where` it was returned.
    """
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, str) or _is_content(item) for item in value):
        return [block for item in value for block in _blocks(item, where)]
    return _blocks(value, where)


def _is_content(value: Any) -> bool:
    return isinstance(value, Image.Image) or _kind(value) in ("text", "image")


def _kind(value: Any) -> Any:
    """The type of a block, None of anything else."""
    if not isinstance(value, Mapping):
        return None
    kind = value.get("type")
    return kind if kind == "image" or (kind == "text" and isinstance(value.get("text"), str)) else None


def _blocks(value: Any, where: str) -> list[dict[str, Any]]:
    if isinstance(value, Image.Image):
        value = {"type": "image", "image": value}
    if _kind(value) == "image":
        image = value.get("image")
        if not isinstance(image, Image.Image):
            raise TypeError(
                f"{where} returned an image block with {_shown(image)}: give it a PIL image (fovea.images.open_image)"
            )
        return [{**value, "image": image if value.get("is_shared") else image.copy()}]
    if _kind(value) == "text":
        return [dict(value)]
    if not _is_plain(value):
        raise TypeError(
            f"{where} returned {_shown(value)}: return text, a PIL image, a block "
            '({"type": "text", "text": ...} or {"type": "image", "image": ...}), or a list of these'
        )
    return [{"type": "text", "text": str(value)}]


def _is_plain(value: Any) -> bool:
    """Returns True for text, a number, or lists and dictionaries of these."""
    if isinstance(value, Mapping):
        return all(_is_plain(name) and _is_plain(item) for name, item in value.items())
    if isinstance(value, (list, tuple, set, frozenset)):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN) or (hasattr(value, "item") and getattr(value, "shape", None) == ())


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text[:80]}{'…' * (len(text) > 80)}"


def misfits(tool: Callable, arguments: Mapping[str, Any]) -> list[str]:
    """The names of arguments that are not of the type that the tool's annotations ask for."""
    from pydantic import TypeAdapter, ValidationError
    from pydantic.errors import PydanticUserError

    wrong = []
    hints = get_type_hints(tool)
    for name, value in arguments.items():
        if name in hints:
            try:
                TypeAdapter(hints[name]).validate_json(json.dumps(value), strict=True)
            except ValidationError:
                wrong.append(f"{name} ({_written(tool, name)})")
            except PydanticUserError:  # an annotation that no JSON can fit
                continue
    return wrong


def _written(tool: Callable, name: str) -> str:
    """The annotation of an argument as it stands in the tool."""
    annotation = inspect.signature(tool).parameters[name].annotation
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
