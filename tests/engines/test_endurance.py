"""Kills and resumes through the commands that users type; `benchmarks.endurance` does it at random moments."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.endurance import TRAININGS, difference, train

pytestmark = pytest.mark.engines


@pytest.fixture(scope="module", params=TRAININGS)
def undisturbed(request, tmp_path_factory):
    """The words of a training, and the folder in which it ended."""
    folder = tmp_path_factory.mktemp("undisturbed") / request.param
    train(TRAININGS[request.param], folder, moments=[], log=folder.with_suffix(".log"))
    return TRAININGS[request.param], folder


def start_until_next_checkpoint(words, folder: Path, log: Path) -> subprocess.Popen:
    """The command, under way, with one whole checkpoint more than there was."""
    before = set(folder.glob("checkpoint-*/whole"))
    with log.open("ab") as file:
        command = [sys.executable, *words, "--output_dir", str(folder)]
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    while not set(folder.glob("checkpoint-*/whole")) - before:
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.02)
    return process


def test_a_killed_training_ends_as_an_undisturbed_one(undisturbed, tmp_path):
    words, whole = undisturbed
    for _ in range(2):
        process = start_until_next_checkpoint(words, tmp_path / "cut", tmp_path / "log")
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    train(words, tmp_path / "cut", moments=[], log=tmp_path / "log")
    assert not difference(whole, tmp_path / "cut")


def test_a_full_disk_stops_the_run_and_nothing_is_lost(undisturbed, tmp_path):
    words, whole = undisturbed
    process = start_until_next_checkpoint(words, tmp_path / "cut", tmp_path / "log")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (2**20, 2**20))
    assert process.wait(300) != 0
    assert "File too large" in (tmp_path / "log").read_text()
    train(words, tmp_path / "cut", moments=[], log=tmp_path / "log")
    assert not difference(whole, tmp_path / "cut")
