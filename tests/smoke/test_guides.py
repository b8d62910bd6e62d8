"""Every command that a guide gives, run in its order in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
GUIDES = [*sorted((ROOT / "docs").glob("*_*.md")), *sorted((ROOT / "docs" / "papers").glob("*.md"))]
ROOMS = ("fovea", "environments", "rewards", "synthesis", "sft", "rl", "evaluation", "doctor", "configs", "examples")
pytestmark = pytest.mark.slow


def test_the_guides_are_found():
    mine = ["checkpoint", "cluster", "data", "environment", "reward", "traces"]
    papers = ["chain_of_focus", "focus_chain", "mimic"]
    assert [guide.stem for guide in GUIDES] == ["does_it_look", "first_run", *(f"my_{name}" for name in mine), *papers]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_each_command_of_a_guide_runs(guide, tmp_path):
    for room in ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    blocks = re.findall(r"```sh\n(.*?)```", guide.read_text(), re.DOTALL)
    assert blocks
    script = "set -e -x\n" + "".join(blocks)
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(tmp_path),
        "ACCELERATE_USE_CPU": "true",
    }
    result = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=900
    )
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-4000:]
