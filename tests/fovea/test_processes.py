"""Processes of a launch: a share of the cores for each, and clear errors that their launcher shows."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

CODE = "import torch; from fovea.processes import take_cores; take_cores(); print(torch.get_num_threads())"
LAUNCHER = """
import os, subprocess, sys
launched = {"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}
subprocess.run([sys.executable, "-c", sys.argv[1]], env={**os.environ, **launched}, check=True)
"""


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the share is of machines without one")
@pytest.mark.parametrize(
    ("given", "processes", "part"), [({}, "1", 1), ({}, "2", 2), ({"OMP_NUM_THREADS": "1"}, "1", None)]
)
def test_threads_are_a_share_of_the_cores_unless_the_user_set_them(given, processes, part):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {**given, "LOCAL_WORLD_SIZE": processes}
    words = [sys.executable, "-c", LAUNCHER, CODE]
    said = subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.split("\n")
    cores = len(psutil.Process().cpu_affinity())
    expected = max(1, cores // part) if part else 1
    assert said[-2] == str(expected) and (expected > 1) is said[0].startswith("the launcher left one thread")


def test_a_shell_that_exports_the_variable_has_set_it():
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "ACCELERATE_"))}
    script = f"export OMP_NUM_THREADS=1; {shlex.quote(sys.executable)} -c {shlex.quote(CODE)}; true"
    said = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["1"]


def test_a_clear_error_is_the_last_thing_that_a_launcher_of_several_processes_shows(tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "29571"]
    words = ["rl/train_grpo.py", "--num_generations", "0", "--output_dir", str(tmp_path)]
    ran = subprocess.run([*launch, *words], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert ran.returncode != 0
    *_, root = ran.stderr.split("Root Cause")
    assert "num_generations is 0: give 1 or more" in root
