"""Cold-start traces from scenes: `python -m synthesis.trace_shapes --output_dir DIR --num_traces 500 --seed 11`.

An oracle plays the real environment with boxes drawn as a hurried annotator draws them: off centre and too large.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from environments.play import Limits, play
from environments.policies import OraclePolicy
from environments.settings import EpisodeArguments
from environments.traces import write_traces
from fovea.boxes import Frame
from fovea.models import Model, load_processor
from synthesis.shapes import make_tasks

DEFAULT_FOLDER = Path("runs/tiny/traces")


def write_shape_traces(
    folder: Path, *, num_traces: int, seed: int, noise: float, looseness: tuple[float, float]
) -> Path:
    """Writes `num_traces` traces of fresh tasks below `folder` and returns it."""
    processor = load_processor("tiny")
    factory = EpisodeArguments(
        box_frame="per_mille", crop_min_pixels=64 * 64, crop_max_pixels=80 * 64
    ).environment_factory(Model(None, processor, "tiny"))
    tasks = make_tasks(num_tasks=num_traces, seed=seed, prefix="trace")
    oracle = OraclePolicy(Frame.PER_MILLE, noise=noise, looseness=looseness, box_step=10, seed=seed)
    write_traces(play(oracle, tasks, environment_factory=factory, limits=Limits()), folder)
    return folder


def write_default_traces() -> Path:
    """The traces of the default cold start, made once."""
    if not (DEFAULT_FOLDER / "traces.jsonl").exists():
        write_shape_traces(DEFAULT_FOLDER, num_traces=500, seed=11, noise=0.12, looseness=(1.0, 3.0))
    return DEFAULT_FOLDER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--num_traces", type=int, default=500)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument(
        "--noise", type=float, default=0.12, help="standard deviation of a box's shift, in its own size"
    )
    parser.add_argument("--looseness", type=float, nargs=2, default=(1.0, 3.0), help="boxes are enlarged by this range")
    args = parser.parse_args()
    write_shape_traces(
        args.output_dir, num_traces=args.num_traces, seed=args.seed, noise=args.noise, looseness=tuple(args.looseness)
    )


if __name__ == "__main__":
    main()
