"""The whole story on the tiny model, offline: base, SFT cold start, GRPO, comparison. `make run` calls it.

Each step is the published command; what is there already is not made again. Trainings run in two processes. Where
memory is fast that is up to 1.5 times as fast as two threads of one process, elsewhere no faster (docs/LOG.md).
Evaluations run two at a time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from evaluation.compare import compare, table, write
from fovea import cli
from fovea.replacing import replaced
from fovea.runs.checkpoints import is_finished
from fovea.runs.records import SUMMARY

FOLDER = Path("runs/tiny")
EVALUATION = "tiny_eval.yaml"
THREADS = "OMP_NUM_THREADS"
LAUNCH = ("accelerate", "launch", "--num_processes", "1", "--num_machines", "1", "--mixed_precision", "no",
          "--dynamo_backend", "no", "--cpu")  # fmt: skip
"""One process on the CPU."""
LAUNCH_TWO = ("accelerate", "launch", "--config_file", "configs/accelerate/cpu.yaml")
"""Two processes on the CPU, each of which takes half of a batch, or of the questions."""
ALONE = ("fovea", "eval")
"""An evaluation in one process."""
TOGETHER = (*LAUNCH_TWO, "-m", "evaluation.evaluate")
"""An evaluation in two processes."""


@contextmanager
def shown(*command: str) -> Iterator[None]:
    """Shows a command as it would be typed, and how long it took."""
    print(f"\n$ {' '.join(command)}", flush=True)
    started = time.perf_counter()
    yield
    print(f"({time.perf_counter() - started:.0f} s)", flush=True)


def run(*command: str) -> None:
    """Runs one command."""
    with shown(*command):
        subprocess.run(command, check=True)


@contextmanager
def half_of_the_cores() -> Iterator[None]:
    """Processes that are started inside compute on half of the cores each.

    More threads than cores wait for each other by spinning, which is many times slower.
    """
    chosen = os.environ.get(THREADS)
    os.environ[THREADS] = chosen or str(max(1, (os.cpu_count() or 1) // 2))
    try:
        yield
    finally:
        if chosen is None:
            del os.environ[THREADS]


def side_by_side(*jobs: Callable[[], None]) -> None:
    """Does jobs that run commands, two at the same time, each command on half of the cores."""
    with half_of_the_cores(), ThreadPoolExecutor(2) as pool:
        for done in as_completed([pool.submit(job) for job in jobs]):
            done.result()


def train(folder: Path, *command: str) -> None:
    """Runs the training that leaves its model in `folder`, unless it is there."""
    if not is_finished(folder):
        run(*command)


def fovea(*words: str) -> None:
    """Runs a command of ours in this process."""
    command = ["fovea", *words]
    with shown(*command), replaced(sys, "argv", command):
        cli.main()


def evaluation_of(model: str | Path, folder: Path, *options: str, config: str = EVALUATION) -> tuple[str, ...]:
    """The model and the options of an evaluation; nothing if it was finished before."""
    is_there = (folder / SUMMARY).exists()
    return () if is_there else (str(model), "--config", config, "--output_dir", str(folder), *options)


def evaluate(
    model: str | Path, folder: Path, *options: str, config: str = EVALUATION, command: Sequence[str] = ALONE
) -> None:
    """Evaluates a checkpoint on held-out tasks, unless that was finished before."""
    if words := evaluation_of(model, folder, *options, config=config):
        run(*command, *words)


def evaluate_side_by_side(*evaluations: Sequence[str]) -> None:
    """Evaluates two at a time; both processes import their libraries once, and take one evaluation after the other."""
    with half_of_the_cores(), ProcessPoolExecutor(2, get_context("spawn")) as pool:
        jobs = [pool.submit(fovea, "eval", *words) for words in evaluations if words]
        try:
            for done in as_completed(jobs):
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # the others would be taken in turn first
            raise


def told_in(root: Path, *, seed: int, is_full: bool) -> Path:
    """The folder of a paper's story: seed 0 in its own folder, other seeds and the full story in folders below it."""
    root = root / "full" if is_full else root
    return root if seed == 0 else root / f"seed_{seed}"


def main() -> None:
    os.environ["ACCELERATE_USE_CPU"] = "true"
    base, sft, rl = (FOLDER / name for name in ("base", "sft", "rl"))
    train(sft, *LAUNCH_TWO, "sft/train_sft.py", "--per_device_train_batch_size", "4")
    train(rl, *LAUNCH_TWO, "rl/train_grpo.py", "--per_device_train_batch_size", "32")
    evaluate_side_by_side(
        evaluation_of(sft, sft / "evaluation"),
        evaluation_of(rl, rl / "evaluation"),
        evaluation_of(rl, rl / "evaluation_noise", "--crops", "noise"),
        evaluation_of("tiny", base / "evaluation"),
        evaluation_of("tiny", base / "evaluation_direct", "--prompt", "direct"),
    )
    comparison = compare(*(path / "evaluation" for path in (base, sft, rl)))
    write(comparison, FOLDER / "comparison.json")
    print(f"\n{table(comparison)}\n\nwritten to {FOLDER / 'comparison.json'}")
    fovea("report", *(str(path) for path in (base, sft, rl)), "--output", str(FOLDER / "report.html"))


if __name__ == "__main__":
    main()
