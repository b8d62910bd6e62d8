"""Jobs that wait for endpoints, many at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(job: Callable[[Item], Result], items: Iterable[Item], num_workers: int) -> Iterator[Result]:
    """Results of the job on each item, as they finish, from `num_workers` threads. Few items are drawn ahead.

    After an exception of a job, or Ctrl-C, no new job starts: running jobs finish and give their results, then the
    exception is raised. If the caller takes no more results, jobs that have not started are cancelled.
    """
    waiting = iter(items)
    failure: BaseException | None = None
    pool = ThreadPoolExecutor(num_workers)
    try:
        running = {pool.submit(job, item) for item in islice(waiting, 2 * num_workers)}
        while running:
            try:
                done, running = wait(running, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt as interrupt:
                if failure is not None:  # who asks twice does not want to wait
                    raise
                done, failure = set(), interrupt
            for finished in done:
                if (error := finished.exception()) is None:
                    yield finished.result()
                else:
                    failure = failure or error
            if failure is None:
                running |= {pool.submit(job, item) for item in islice(waiting, len(done))}
            else:
                running = {one for one in running if not one.cancel()}
    finally:
        pool.shutdown(cancel_futures=True)
    if failure is not None:
        raise failure
