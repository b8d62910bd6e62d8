"""Jobs side by side: an end before the end begins nothing new, and loses nothing that is under way."""

import time

import pytest

from synthesis import side_by_side as module
from synthesis.side_by_side import side_by_side


def slow_job(begun):
    def job(item):
        begun.append(item)
        time.sleep(0.05)
        return item

    return job


def test_all_items_are_worked_on():
    assert sorted(side_by_side(slow_job([]), range(9), 3)) == list(range(9))


def test_who_takes_no_more_ends_what_has_not_begun():
    begun = []
    results = side_by_side(slow_job(begun), range(100), 2)
    next(results)
    results.close()
    assert len(begun) <= 4


def test_ctrl_c_gives_what_is_under_way_and_begins_nothing_new(monkeypatch):
    begun, given, stock, calls = [], [], module.wait, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return stock(*args, **kwargs)

    monkeypatch.setattr(module, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        for result in side_by_side(slow_job(begun), range(100), 2):
            given.append(result)
    assert sorted(given) == sorted(begun) and len(begun) <= 5


def test_a_job_that_fails_gives_what_is_under_way_first():
    begun, given = [], []

    def job(item):
        begun.append(item)
        time.sleep(0.05 * item)
        if item == 0:
            raise RuntimeError("no")
        return item

    with pytest.raises(RuntimeError, match="no"):
        for result in side_by_side(job, range(100), 2):
            given.append(result)
    assert sorted(given) == sorted(begun)[1:] and len(begun) <= 5
