"""For the few places where a library makes something itself and has no argument for another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute of a module, a class or an object is `value` inside the block, and what it was after it.

    >>> import math
    >>> with replaced(math, "pi", 3):
    ...     math.pi
    3
    >>> round(math.pi, 2)
    3.14
    """
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)
