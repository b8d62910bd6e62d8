"""Seconds and memory of `fovea data check`, `convert` and `mix` on many traces: `python -m benchmarks.traces_at_scale`.

Traces of three images each (one view, two crops) are made by the oracle, in parts, and kept in --folder: made once, the
same traces are measured again. Each command runs in a process of its own; its peak is of its resident memory (VmHWM).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tqdm import trange

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.play import play
from environments.policies.oracle import OraclePolicy
from environments.seats import Limits
from environments.traces import trace_record, unfit
from fovea.boxes import Frame
from fovea.commands import plain_parser
from fovea.models.loading import load_outline
from synthesis.shapes import make_tasks

PART = 250
CROPS = ("--crop_min_pixels", "4096", "--crop_max_pixels", "5120")


def make(folder: Path, num_traces: int) -> Path:
    """A folder with so many traces; one that has them is left as it is."""
    path = folder / "traces.jsonl"
    have = sum(1 for _ in path.open()) if path.exists() else 0
    if have >= num_traces:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    episodes = EpisodeArguments(crop_min_pixels=4096, crop_max_pixels=5120)
    factory = environment_factory(episodes, load_outline("tiny"))
    oracle = OraclePolicy(Frame.PER_MILLE, noise=0.05, looseness=(1.2, 2.0), box_step=10, seed=have)
    with path.open("a") as file:
        for start in trange(have, num_traces, PART, desc="made"):
            size = min(PART, num_traces - start)
            tasks = make_tasks(num_tasks=size, seed=start + 1, families={"compare": 1.0}, prefix=f"s{start}")
            played = play(oracle, tasks, environment_factory=factory, limits=Limits())
            for task, episode in zip(tasks, played, strict=True):
                assert unfit(episode) is None, task.id
                file.write(json.dumps(trace_record(episode, folder, name=task.id)) + "\n")
    return folder


def measured(words: list[str]) -> tuple[float, float, str]:
    """Seconds, peak GiB, and the last lines of a command."""
    code = "from fovea.cli import main\ntry: main()\nexcept SystemExit as end: print(end)\n"
    code += "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    *lines, last = done.stdout.strip().splitlines() or [done.stderr[-500:]]
    if not last.startswith("VmHWM"):
        raise RuntimeError(f"{' '.join(words)} failed: {done.stderr[-1000:]}")
    return seconds, int(last.split()[1]) / 2**20, "\n".join(lines[-6:])


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the traces are made, and kept")
    parser.add_argument("--num_traces", type=int, nargs="+", default=[5000, 50000], help="sizes, the smaller first")
    args = parser.parse_args()
    rows = ["| command | traces | seconds | traces a second | peak GiB |", "|---|---|---|---|---|"]
    for number in args.num_traces:
        folder = str(make(args.folder / str(number), number))
        commands = {
            "check": ["data", "check", folder, *CROPS],
            "convert": ["data", "convert", folder, f"{folder}-converted", *CROPS],
            "mix": ["data", "mix", folder, folder, "--held_out", "0.05", "--output_dir", f"{folder}-mixed"],
        }
        for kind in ("converted", "mixed"):
            shutil.rmtree(f"{folder}-{kind}", ignore_errors=True)
        for name, words in commands.items():
            seconds, peak, said = measured(words)
            rows.append(f"| {name} | {number} | {seconds:.0f} | {number / seconds:.0f} | {peak:.2f} |")
            print(said, rows[-1], sep="\n")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
