"""Measurements that need a GPU, in one command: `python -m benchmarks.gpu --minutes 9 --json runs/gpu/results.json`.

Slices, the most telling first: `kernels` (attention against float64), `exact` (log-probabilities and gradients against
stock TRL), `greedy` (rollouts token for token), `loss` (loss and backward at released shapes: seconds, memory, and the
doctor's estimate), `rollouts` (64 episodes with kept caches), `story` (the tiny model, SFT, GRPO), `long` (GRPO until
it stops learning). Each case is written to the file as it ends. The same command goes on where the last one stopped,
and tries failed cases again. It needs torch, torchvision, transformers, trl, peft, accelerate, datasets, pillow and
pyyaml, and runs from a clone without installation. `--small` tries it out on a CPU.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu import exactness, kernels, loss, rollouts, story
from benchmarks.gpu.cases import Case
from benchmarks.gpu.runner import Results, run
from fovea.commands import plain_parser
from fovea.runs.directory import commit, versions

STARTED = time.monotonic()
SLICES = ("kernels", "exact", "greedy", "loss", "rollouts", "story", "long")


def all_cases(small: bool, folder: Path) -> list[Case]:
    cases = [*kernels.cases(small), *exactness.cases(small), *rollouts.cases(small), *loss.cases(small)]
    cases += story.cases(small, folder)
    return sorted(cases, key=lambda case: SLICES.index(case.slice))


def about(small: bool) -> dict[str, Any]:
    """The card, versions and commit of a measurement. CUDA stays untouched here: the cases' processes use it."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        card = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()
    except (OSError, subprocess.CalledProcessError, IndexError):
        card = f"no GPU, {platform.machine()}, {os.cpu_count()} cores"
    return {"card": card, "small": small, "versions": versions(), **commit()}


def table(cases: list[Case], results: Results) -> str:
    where = results.content["about"]
    named = ", ".join(f"{name} {where['versions'].get(name)}" for name in ("torch", "transformers", "trl"))
    state = ("and changes " if where.get("dirty") else "") + ("in small" if where["small"] else "")
    lines = [
        f"{where['card']}; {named}; commit {where['commit']} {state}".strip(),
        "",
        "| slice | case | result | seconds |",
        "|---|---|---|---|",
    ]
    for case in cases:
        row = results.rows.get(case.key)
        status = "" if row is None or row["status"] == "done" else f"**{row['status']}** "
        outcome = (
            "not reached yet" if row is None else status + " ".join(str(row["text"]).split())[:600].replace("|", "\\|")
        )
        lines.append(
            f"| {case.slice} | {case.name} | {outcome} | {'' if row is None else format(row['seconds'], '.0f')} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--minutes", type=float, default=9.0, help="end within so many minutes")
    parser.add_argument("--json", type=Path, default=Path("runs/gpu/results.json"), help="what is measured goes here")
    parser.add_argument("--only", nargs="+", choices=SLICES, default=SLICES, help="these slices alone")
    parser.add_argument("--small", action="store_true", help="small shapes and few steps, for a try-out on a CPU")
    parser.add_argument("--work_dir", type=Path, help="folder of the story's checkpoints (default: beside the file)")
    args = parser.parse_args()
    folder = (args.work_dir or args.json.parent / "story").resolve()
    cases = [case for case in all_cases(args.small, folder) if case.slice in args.only]
    try:
        results = Results(args.json, about(args.small))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    for case, row in run(cases, results, deadline=STARTED + 60 * args.minutes):
        print(f"[{time.monotonic() - STARTED:4.0f} s] {case.key}: {row['status']}: {row['text']}", flush=True)
    print(f"\n{table(cases, results)}\n\nwritten to {args.json}")
    sys.exit(any(results.rows.get(case.key, {}).get("status") == "failed" for case in cases))


if __name__ == "__main__":
    main()
