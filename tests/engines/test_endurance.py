"""Kills and resumes through the commands that users type; `benchmarks.endurance` does it at random moments."""

from __future__ import annotations

import pytest

from benchmarks.endurance import TRAININGS, difference, train

pytestmark = pytest.mark.engines


@pytest.mark.parametrize("name", TRAININGS)
def test_a_killed_training_ends_as_an_undisturbed_one(name, tmp_path):
    words = TRAININGS[name]
    train(words, tmp_path / "whole", moments=[], log=tmp_path / "whole.log")
    killed = train(words, tmp_path / "cut", moments=[25, 30], log=tmp_path / "cut.log")
    assert killed and not difference(tmp_path / "whole", tmp_path / "cut")
