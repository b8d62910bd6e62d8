"""Coroutines of users' tools and rewards, awaited where nothing else is asynchronous."""

from __future__ import annotations

import asyncio
import inspect
from functools import cache
from typing import Any


def awaited(value: Any) -> Any:
    """The value, or the result of a coroutine. All coroutines run on one loop, so that clients can be kept."""
    return _event_loop().run_until_complete(value) if inspect.isawaitable(value) else value


@cache
def _event_loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()
