"""Phases add up, whatever is nested in what."""

import json
import threading
import time

import pytest

from fovea.ledger import LEDGER, count, phase


@pytest.fixture(autouse=True)
def restarted():
    LEDGER.restart()


@phase("outer")
def outer():
    time.sleep(0.02)
    with phase("inner"):
        time.sleep(0.05)
    time.sleep(0.02)


def test_time_belongs_to_the_innermost_phase_and_phases_add_up():
    started = time.perf_counter()
    outer()
    outer()
    seconds = LEDGER.summary()["seconds"]
    passed = time.perf_counter() - started
    assert seconds["inner"] >= 0.1 and 0.08 <= seconds["outer"] < passed - seconds["inner"] + 1e-3
    assert sum(seconds.values()) - seconds["total"] == pytest.approx(seconds["total"])
    assert seconds["total"] == pytest.approx(passed, abs=0.01)


def test_a_phase_ends_when_it_raises():
    with pytest.raises(ValueError), phase("broken"):
        raise ValueError
    before = LEDGER.summary()["seconds"]["broken"]
    time.sleep(0.01)
    assert LEDGER.summary()["seconds"]["broken"] == before


def test_other_threads_do_not_count_twice():
    worker = threading.Thread(target=outer)
    worker.start()
    worker.join()
    assert set(LEDGER.summary()["seconds"]) == {"total", "other"}


def test_a_run_that_goes_on_adds_to_what_it_did(tmp_path):
    path = tmp_path / "ledger.json"
    outer()
    count("images encoded", 2)
    LEDGER.write(path)
    before = json.loads(path.read_text())
    LEDGER.restart(path)
    outer()
    count("images encoded", 3)
    after = LEDGER.summary()
    assert after["counts"] == {"images encoded": 5}
    assert after["seconds"]["inner"] == pytest.approx(2 * before["seconds"]["inner"], rel=0.3)
    assert sum(after["seconds"].values()) == pytest.approx(2 * after["seconds"]["total"])
    path.write_text('{"seconds": {"tot')
    for nothing in (path, tmp_path / "none.json", None):
        LEDGER.restart(nothing)
        assert LEDGER.summary()["counts"] == {}


def test_counts_are_kept_with_their_rates(tmp_path):
    count("images encoded", 2)
    count("images encoded", 3)
    LEDGER.write(tmp_path / "ledger.json")
    kept = json.loads((tmp_path / "ledger.json").read_text())
    assert kept["counts"] == {"images encoded": 5} and kept["peak_memory_gib"]["host"] > 0
    assert kept["per_second"]["images encoded"] == pytest.approx(5 / kept["seconds"]["total"])
    assert "5 images encoded" in LEDGER.table()
