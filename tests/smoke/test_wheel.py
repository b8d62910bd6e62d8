"""The wheel holds every module, every shipped file, and the marks of types."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("fovea", "environments", "rewards", "synthesis", "sft", "rl", "evaluation", "doctor", "configs")
pytestmark = pytest.mark.slow


def test_the_wheel_holds_all_rooms(tmp_path):
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(source)], check=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(source)],
        check=True,
    )
    [wheel] = tmp_path.glob("fovea-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(["git", "ls-files", *ROOMS], cwd=source, capture_output=True, text=True, check=True)
    expected = {name for name in listed.stdout.split() if not name.endswith(".md")}
    assert expected - held == set()
    assert {f"{room}/py.typed" for room in ROOMS[:-1]} <= held
    assert not {name.partition("/")[0] for name in held} & {"tests", "benchmarks", "examples", "docs"}
