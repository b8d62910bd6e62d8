"""Does RL beat SFT, and what else could have? `python -m benchmarks.learning --seeds 0 1 2 --output_dir runs/learning`.

For each seed: the cold start and GRPO of the default configs, and two controls that start from the same cold start and
get the wall-clock that GRPO took: more SFT on the same traces, and SFT on the cold start's own successes (rejection
sampling, a third of the time spent on playing). All are scored greedily on the same held-out scenes, RL also with its
crops replaced by noise, beside the best constant answer. What is there already is not made again.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.compare import compare_pair
from evaluation.evaluated import load
from evaluation.summary import summarize
from evaluation.tiny_story import LAUNCH, evaluate, run, train
from fovea.commands import plain_parser
from fovea.jsonl import read_jsonl
from fovea.runs.records import read_samples
from synthesis.oracle_traces import write_default_traces
from synthesis.shapes import ZOOM_FAMILIES

SFT = (sys.executable, "sft/train_sft.py")
SAMPLING_SHARE = 1 / 3


def last_of(folder: Path, name: str) -> float:
    """The last value of a metric that a run directory logs."""
    return float([row[name] for row in read_jsonl(folder / "metrics.jsonl") if name in row][-1])


def minutes_of(folder: Path) -> float:
    """Wall-clock minutes of a training, start-up excluded."""
    return last_of(folder, "train_runtime") / 60


def num_traces(folder: str | Path) -> int:
    return len(read_jsonl(Path(folder) / "traces.jsonl"))


def within(minutes: float, minutes_per_epoch: float) -> tuple[str, ...]:
    """Options of a training that ends after so many minutes, its learning rate decaying over just that time."""
    epochs = max(1, round(minutes / minutes_per_epoch))
    return "--num_train_epochs", str(epochs), "--max_minutes", f"{minutes:.2f}"


def run_seed(folder: Path, seed: int) -> dict[str, Any]:
    """Trains and scores everything of one seed; the comparisons by name, and how the noise probe came out."""
    sft, rl, more, own = (folder / name for name in ("sft", "rl", "more_sft", "own_successes"))
    seeded = ("--seed", str(seed))
    train(sft, *SFT, "--output_dir", str(sft), *seeded)
    source = ("--model_name_or_path", str(sft), *seeded)
    train(rl, *LAUNCH, "rl/train_grpo.py", *source, "--output_dir", str(rl))
    minutes = minutes_of(rl)
    train(more, *SFT, *source, *within(minutes, minutes_of(sft) / last_of(sft, "epoch")), "--output_dir", str(more))
    traces = folder / "own_traces"
    if not (traces / "traces.jsonl").exists():
        played, limit = str(folder / "played"), ("--max_minutes", f"{minutes * SAMPLING_SHARE:.2f}")
        run("fovea", "eval", "--config", "tiny_own_successes.yaml", *source, *limit, "--output_dir", played)
        run("fovea", "traces", "own", played, "--max_per_task", "8", "--output_dir", str(traces))
    growth = num_traces(traces) / num_traces(write_default_traces())
    rest = within(minutes * (1 - SAMPLING_SHARE), growth * minutes_of(sft) / last_of(sft, "epoch"))
    train(own, *SFT, *source, *rest, "--dataset_name", str(traces), "--output_dir", str(own))
    for model in (sft, rl, more, own):
        evaluate(model, model / "evaluation")
    evaluate(rl, rl / "evaluation_noise", "--crops", "noise")
    comparisons = {
        f"{other.name}-rl": compare_pair(load(other / "evaluation"), load(rl / "evaluation"))
        for other in (sft, more, own)
    }
    noise = [sample for sample in read_samples(rl / "evaluation_noise") if sample.family in ZOOM_FAMILIES]
    return {"seed": seed, "minutes": minutes, "pairs": comparisons, "noise": asdict(summarize(noise))}


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output_dir", type=Path, default=Path("runs/learning"))
    parser.add_argument("--json", type=Path, help="also write all comparisons here")
    args = parser.parse_args()
    results = [run_seed(args.output_dir / str(seed), seed) for seed in args.seeds]
    print("| seed | against | its accuracy | RL | difference | 95% interval |\n|---|---|---|---|---|---|")
    for result in results:
        for name, pair in result["pairs"].items():
            low, high = pair["interval"]
            numbers = f"{pair['accuracy_a']:.3f} | {pair['accuracy_b']:.3f} | {pair['difference']:+.3f}"
            print(f"| {result['seed']} | {name.removesuffix('-rl')} | {numbers} | [{low:+.3f}, {high:+.3f}] |")
    print("\n| seed | zoom families, crops of noise | best constant answer |\n|---|---|---|")
    for result in results:
        print(f"| {result['seed']} | {result['noise']['accuracy']:.3f} | {result['noise']['best_constant']:.3f} |")
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
