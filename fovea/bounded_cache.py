"""A cache of recently used values, with a bound on their total size."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value")


class BoundedCache(Generic[Value]):
    """Values by key; `trim` forgets those used longest ago until the rest fits into `max_bytes`.

    >>> cache = BoundedCache(3, size=len)
    >>> [cache.get(word, word.upper) for word in ("ab", "c", "ab", "de")]
    ['AB', 'C', 'AB', 'DE']
    >>> "ab" in cache, "c" in cache, "de" in cache
    (False, False, True)
    """

    def __init__(self, max_bytes: int, size: Callable[[Value], int]) -> None:
        self.max_bytes, self.num_bytes, self._size = max_bytes, 0, size
        self._values: OrderedDict[Hashable, Value] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of a key, made if it is not here, and everything trimmed."""
        if key not in self:
            self[key] = make()
        value = self[key]
        self.trim()
        return value

    def __contains__(self, key: Hashable) -> bool:
        return key in self._values

    def __getitem__(self, key: Hashable) -> Value:
        self._values.move_to_end(key)
        return self._values[key]

    def __setitem__(self, key: Hashable, value: Value) -> None:
        self._values[key] = value
        self.num_bytes += self._size(value)

    def trim(self) -> None:
        while self.num_bytes > self.max_bytes:
            self.num_bytes -= self._size(self._values.popitem(last=False)[1])

    def clear(self) -> None:
        self._values.clear()
        self.num_bytes = 0
