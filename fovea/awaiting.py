"""Coroutines of users' tools and rewards, awaited where nothing else is asynchronous."""

from __future__ import annotations

import asyncio
import inspect
from functools import cache
from threading import RLock
from typing import Any

_ONE_AT_A_TIME = RLock()


def awaited(value: Any) -> Any:
    """The value, or the result of a coroutine. All run on one loop, so that clients can be kept."""
    if not inspect.isawaitable(value):
        return value
    with _ONE_AT_A_TIME:
        return _event_loop().run_until_complete(value)


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()
