"""Coroutines of users' tools and rewards, awaited where nothing else is asynchronous."""

from __future__ import annotations

import asyncio
import inspect
from functools import cache
from threading import Lock
from typing import Any

_ONE_AT_A_TIME = Lock()


def awaited(value: Any) -> Any:
    """The value; of a coroutine what it comes to. All run on one loop of this process, for clients that are kept."""
    if not inspect.isawaitable(value):
        return value
    with _ONE_AT_A_TIME:
        return _event_loop().run_until_complete(value)


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()
