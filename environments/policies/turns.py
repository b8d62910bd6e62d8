"""Turns that end one by one: each is asked for in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import cached_property

from environments.seats import Conversation, Reply


class ThreadedTurns:
    """Both forms of a policy, all turns at once or one by one, for one that answers requests in threads.

    `num_threads` requests are under way at a time, the others wait for their turn.
    """

    num_threads: int

    def request(self, conversation: Conversation, max_tokens: int) -> Callable[[], Reply]:
        """Prepares a request in the caller's thread, and returns the function that sends it in another one."""
        raise NotImplementedError

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.num_threads)

    @cached_property
    def _under_way(self) -> dict[Future[Reply], Conversation]:
        return {}

    def reply(self, conversations: Sequence[Conversation], *, max_tokens: Sequence[int]) -> list[Reply]:
        requests = [self.request(*both) for both in zip(conversations, max_tokens, strict=True)]
        return list(self._pool.map(lambda request: request(), requests))

    def submit(self, conversation: Conversation, *, max_tokens: int) -> None:
        self._under_way[self._pool.submit(self.request(conversation, max_tokens))] = conversation

    def finished(self) -> list[tuple[Conversation, Reply]]:
        """Returns the turns that have ended. The error of a failed turn is raised when no other turn has ended."""
        done, _ = wait(self._under_way, return_when=FIRST_COMPLETED)
        ended = [future for future in self._under_way if future in done]  # in the order in which they were asked for
        good = [future for future in ended if future.exception() is None]
        return [(self._under_way.pop(future), future.result()) for future in good or ended]

    def abandon(self) -> None:
        for future in self._under_way:
            future.cancel()
        self._under_way.clear()
