"""Episodes outside and inside any trainer: the one loop that lets a policy act in an environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol, runtime_checkable

import torch

from environments.rendering import Renderer
from environments.seats import Conversation, Limits, Reply, Seat
from fovea.episodes import Episode
from fovea.ledger import count, phase
from fovea.tasks import Task


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling in Transformers' terms: `temperature` 0 is greedy, `top_k` or `min_p` 0 is off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0


class Policy(Protocol):
    """Writes the next assistant turn of each conversation, each in at most `max_tokens` tokens."""

    def reply(self, conversations: Sequence[Conversation], *, max_tokens: Sequence[int]) -> list[Reply]: ...


@runtime_checkable
class ContinuousPolicy(Policy, Protocol):
    """A policy whose turns end one by one, so that no episode waits for another's.

    One with `is_stepped = True` runs an engine in the caller's thread. Environments then work in another thread beside
    it: images are decoded, cropped and preprocessed while the engine writes other turns.
    """

    def submit(self, conversation: Conversation, *, max_tokens: int) -> None:
        """Begins a turn."""

    def finished(self) -> list[tuple[Conversation, Reply]]:
        """Turns that have ended; it waits until there is one, and raises what made one fail.

        A stepped policy returns after each step, without turns if none has ended.
        """

    def abandon(self) -> None:
        """Forgets the turns that have not ended."""


def play(
    policy: Policy,
    tasks: Sequence[Task],
    *,
    environment_factory: Callable[[], Any],
    limits: Limits,
    renderer: Renderer | None = None,
    batch_size: int = 64,
    seeds: Sequence[int] | None = None,
) -> list[Episode]:
    """One episode per task, in order; at most `batch_size` of them run side by side.

    With a renderer the episodes carry their exact tokens; without one (an oracle needs none) only messages. Episodes of
    a `ContinuousPolicy` do not wait for each other's turns; those of others take their turns together. With `seeds`,
    one a task, what an episode samples does not hang on the episodes beside it (`Conversation.seed`).
    """
    placed = dict(
        play_each(
            policy,
            tasks,
            environment_factory=environment_factory,
            limits=limits,
            renderer=renderer,
            batch_size=batch_size,
            seeds=seeds,
        )
    )
    return [placed[place] for place in range(len(tasks))]


def play_each(
    policy: Policy, tasks: Sequence[Task], *, environment_factory: Callable[[], Any], limits: Limits,
    renderer: Renderer | None = None, batch_size: int = 64, seeds: Sequence[int] | None = None,
) -> Iterator[tuple[int, Episode]]:  # fmt: skip
    """The episodes of `play`, each as soon as it has ended, with the place of its task."""

    def seat(place: int) -> Seat:
        return Seat(tasks[place], environment_factory(), renderer, limits, None if seeds is None else seeds[place])

    if isinstance(policy, ContinuousPolicy):
        yield from _one_by_one(policy, len(tasks), seat, batch_size)
        return
    for start in range(0, len(tasks), batch_size):
        seats = list(map(seat, range(len(tasks))[start : start + batch_size]))
        yield from enumerate(_together(policy, seats), start)


@phase("environment")
def _together(policy: Policy, seats: Sequence[Seat]) -> list[Episode]:
    """Their episodes, turn after turn of all of them."""
    while active := [seat for seat in seats if seat.stop_reason is None]:
        conversations = [seat.conversation for seat in active]
        with phase("decode"):
            replies = policy.reply(conversations, max_tokens=[seat.tokens_left for seat in active])
        count("tokens sampled", sum(reply.num_tokens for reply in replies))
        for seat, reply in zip(active, replies, strict=True):
            seat.take(reply)
    return [seat.episode() for seat in seats]


def _one_by_one(
    policy: ContinuousPolicy, num_episodes: int, seat_of: Callable[[int], Seat], most: int
) -> Iterator[tuple[int, Episode]]:
    """The episodes, `most` of them side by side, each on its own clock."""
    waiting, table = iter(range(num_episodes)), _Table(policy, seat_of)
    try:
        while True:
            with phase("environment"):
                for place in islice(waiting, most - len(table)):
                    table.seat(place)
                if not len(table):
                    return
                table.wait_for_a_turn()
                ended = table.begin_turns()
            yield from ended
            with phase("environment"):
                table.end_turns()
                ended = table.begin_turns()
            yield from ended
    finally:
        table.clear()


class _Table:
    """Episodes that run side by side: a worker prepares their turns, and the policy writes those that are prepared."""

    def __init__(self, policy: ContinuousPolicy, seat_of: Callable[[int], Seat]) -> None:
        self._policy, self._seat_of = policy, seat_of
        self._worker = _one_thread() if getattr(policy, "is_stepped", False) else _AtOnce()
        self._preparing: dict[Future[tuple[Seat, Episode | None]], int] = {}
        self._writing: dict[int, tuple[int, Seat]] = {}

    def __len__(self) -> int:
        return len(self._preparing) + len(self._writing)

    def seat(self, place: int) -> None:
        """Opens the episode of this place."""
        self._preparing[self._worker.submit(lambda: (self._seat_of(place), None))] = place

    def wait_for_a_turn(self) -> None:
        """Waits for the worker where the policy has nothing to write."""
        if not self._writing:
            wait(self._preparing, return_when=FIRST_COMPLETED)

    def begin_turns(self) -> list[tuple[int, Episode]]:
        """Begins the turns that are prepared, and returns the episodes that have ended. Failures come after them."""
        done = [one for one in self._preparing if one.done()]
        ended = []
        for future in [one for one in done if one.exception() is None] or done:
            place = self._preparing.pop(future)
            seat, episode = future.result()
            if episode is None:
                self._writing[id(seat.conversation)] = place, seat
                self._policy.submit(seat.conversation, max_tokens=seat.tokens_left)
            else:
                ended.append((place, episode))
        return ended

    def end_turns(self) -> None:
        """Has the worker carry out the turns that the policy ends, if it writes any."""
        if not self._writing:
            return
        with phase("decode"):
            turns = self._policy.finished()
        count("tokens sampled", sum(reply.num_tokens for _, reply in turns))
        for conversation, reply in turns:
            place, seat = self._writing.pop(id(conversation))
            self._preparing[self._worker.submit(_taken, seat, reply)] = place

    def clear(self) -> None:
        """Forgets what is under way."""
        self._policy.abandon()
        self._worker.shutdown(cancel_futures=True)


def _taken(seat: Seat, reply: Reply) -> tuple[Seat, Episode | None]:
    """The seat after a reply, and its episode if that has ended."""
    seat.take(reply)
    return seat, None if seat.stop_reason is None else seat.episode()


def _one_thread() -> Executor:
    """A thread in which environments work while the caller's steps an engine. It uses the caller's GPU."""
    device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
    return ThreadPoolExecutor(1, initializer=partial(_use_gpu, device))


def _use_gpu(device: int | None) -> None:
    if device is not None:
        torch.cuda.set_device(device)


class _AtOnce(Executor):
    """Does everything when it is asked to, in the caller's thread."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future
