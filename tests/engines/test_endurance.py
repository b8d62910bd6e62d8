"""Kills and resumes through the commands that users type; `benchmarks.endurance` does it at random moments."""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import pytest

from benchmarks.endurance import TRAININGS, difference, train

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module", params=TRAININGS)
def undisturbed(request, tmp_path_factory):
    """The words of a training, the folder in which it ended, and how many seconds it took."""
    folder, started = tmp_path_factory.mktemp("undisturbed") / request.param, time.monotonic()
    train(TRAININGS[request.param], folder, moments=[], log=folder.with_suffix(".log"))
    return TRAININGS[request.param], folder, time.monotonic() - started


def test_a_killed_training_ends_as_an_undisturbed_one(undisturbed, tmp_path):
    words, whole, seconds = undisturbed
    killed = train(words, tmp_path / "cut", moments=[0.5 * seconds] * 3, log=tmp_path / "log")
    assert killed and not difference(whole, tmp_path / "cut")


def test_a_full_disk_stops_the_run_and_nothing_is_lost(undisturbed, tmp_path):
    words, whole, _ = undisturbed
    cut = tmp_path / "cut"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([sys.executable, *words, "--output_dir", str(cut)], stdout=log, stderr=log)
    while not list(cut.glob("checkpoint-*/whole")):
        assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        time.sleep(0.05)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2**20, 2**20))
    assert process.wait(300) != 0
    assert "File too large" in (tmp_path / "log").read_text()
    train(words, cut, moments=[], log=tmp_path / "log")
    assert not difference(whole, cut)
