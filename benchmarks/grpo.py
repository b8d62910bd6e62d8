"""Speed against stock TRL: `python -m benchmarks.grpo --json PATH --prompt_tokens 1000 --completion_tokens 250`.

TRL's own `GRPOTrainer` and Fovea's train the same random model (`--size`, a name in fovea/models/random_models.py) in
the same environment on the same scripted rollouts, by turns. Three things are timed: the loss of recorded rollouts
(log-probs and backward), the rollouts, and whole steps. Ratios are stock over Fovea. Beside them: exact counts of
inputs preprocessed, encoded and forwarded, the bytes that autograd saves, and how far log-probabilities and gradients
differ.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers.utils import logging

from benchmarks.sides import Setup, Side, make_side, matmul_rate, recorded
from benchmarks.workload import Workload
from fovea.commands import plain_parser
from fovea.models.random_models import SHAPES, random_model

STAGES = ("loss", "rollout", "step")


def make_sides(args: argparse.Namespace, folder: str) -> Iterator[tuple[Side, Workload]]:
    """Stock TRL and Fovea, each with a model of its own and the same weights."""
    on_gpu = torch.cuda.is_available()
    place: dict[str, Any] = {"dtype": torch.bfloat16, "device": "cuda"} if on_gpu else {}
    setup = Setup(**{option.name: getattr(args, option.name) for option in fields(Setup)})
    for stock in (True, False):
        yield make_side(random_model(args.size, stock=stock, **place), setup, folder, stock=stock)


@dataclass
class Measured:
    """By stage and side: seconds of each round, and counts of the last; by side, vision's share of the loss."""

    seconds: dict[str, dict[str, list[float]]]
    counts: dict[str, dict[str, Counter]]
    vision: dict[str, list[float]]


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All that is reported, as it is written to the JSON file."""
    with tempfile.TemporaryDirectory() as folder:
        (stock, _), (fovea, work) = make_sides(args, folder)
    sides = {"stock": stock, "fovea": fovea}
    inputs = {name: recorded(side, args.num_generations) for name, side in sides.items()}
    for name in ("prompt_ids", "completion_ids", "tool_mask"):
        assert torch.equal(inputs["stock"][name], inputs["fovea"][name]), f"the sides played different {name}"
    measured = _rounds(sides, inputs, args)
    results: dict[str, Any] = {name: value for name, value in vars(args).items() if name != "json"}
    results |= {"visual_tokens": work.num_visual, "torch_threads": torch.get_num_threads()}
    limits = _bounds(measured, args)
    for stage in STAGES[:1] if args.loss_only else STAGES:
        seconds, counts = measured.seconds[stage], measured.counts[stage]
        ratios = sorted(a / b for a, b in zip(seconds["stock"], seconds["fovea"], strict=True))
        results[stage] = {
            "time_ratio": {"min": ratios[0], "median": statistics.median(ratios), "max": ratios[-1]},
            "token_ratio": counts["stock"]["language tokens"] / counts["fovea"]["language tokens"],
            "bound": limits[stage],
            "seconds": seconds,
            "counts": counts,
        }
    results["loss"]["vision_share"] = {name: statistics.median(shares) for name, shares in measured.vision.items()}
    best = matmul_rate(stock.network.dtype, stock.network.device.type)
    results["matmul_tflops"] = best / 1e12
    results["loss"] |= _of_the_loss(sides, inputs, best)
    return results


def _rounds(sides: dict[str, Side], inputs: dict[str, Any], args: argparse.Namespace) -> Measured:
    """Measures the sides by turns; the first round is not counted."""
    measured = Measured(
        {stage: {name: [] for name in sides} for stage in (*STAGES, "decode")},
        {stage: {} for stage in STAGES},
        {name: [] for name in sides},
    )
    counts = measured.counts
    for number in tqdm(range(args.repeats + 1), desc="rounds (the first is not counted)"):
        for name, side in sides.items():
            step, rollout, decode = (0.0, 0.0, 0.0) if args.loss_only else side.step()
            counts["step"][name] = Counter(side.counts)
            loss = side.loss_seconds(inputs[name])
            counts["loss"][name], share = Counter(side.counts), side.seconds["vision"] / loss
            counts["rollout"][name] = counts["step"][name] - counts["loss"][name]
            if number:
                measured.vision[name].append(share)
                for stage, value in zip((*STAGES, "decode"), (loss, rollout, step, decode), strict=True):
                    measured.seconds[stage][name].append(value)
    return measured


def _bounds(measured: Measured, args: argparse.Namespace) -> dict[str, float]:
    """Upper bound of the speed-up of each stage: shared tokens are computed once, decoding stays as it is."""
    tokens = args.num_generations * (args.prompt_tokens + args.completion_tokens)
    bound = tokens / (args.prompt_tokens + args.num_generations * args.completion_tokens)
    if args.loss_only:
        return {"loss": bound}
    middle = {stage: statistics.median(seconds["stock"]) for stage, seconds in measured.seconds.items()}
    rest = middle["step"] - middle["rollout"] - middle["loss"]
    return {
        "loss": bound,
        "rollout": middle["rollout"] / middle["decode"],
        "step": middle["step"] / (middle["decode"] + middle["loss"] / bound + rest),
    }


def _of_the_loss(sides: dict[str, Side], inputs: dict[str, Any], matmul_rate: float) -> dict[str, Any]:
    """Rates, saved bytes, and how far the sides' log-probabilities and gradients differ."""
    saved = {name: side.saved_bytes(inputs[name]) for name, side in sides.items()}
    (stock_logps, stock_gradients), (logps, gradients) = (
        side.logps_and_gradients(inputs[name]) for name, side in sides.items()
    )
    return {
        "backward_share_of_matmul": {n: side.backward_rate(inputs[n]) / matmul_rate for n, side in sides.items()},
        "memory_ratio": saved["stock"] / saved["fovea"],
        "saved_bytes": saved,
        "logps_differ_by": float((stock_logps - logps).abs().max()),
        "gradients_differ_by": float((stock_gradients - gradients).norm() / stock_gradients.norm()),
    }


def table(results: dict[str, Any]) -> str:
    """The results as a table, and the checks below it."""
    lines = ["| what | stock, s | Fovea, s | faster (min, max) | tokens fewer | limit |", "|---|---|---|---|---|---|"]
    for stage in filter(results.__contains__, STAGES):
        outcome = results[stage]
        times = (statistics.median(outcome["seconds"][name]) for name in ("stock", "fovea"))
        ratio = outcome["time_ratio"]
        lines.append(
            f"| {stage} | {' | '.join(f'{value:.2f}' for value in times)} | **{ratio['median']:.2f}** "
            f"({ratio['min']:.2f}, {ratio['max']:.2f}) | {outcome['token_ratio']:.2f} | {outcome['bound']:.2f} |"
        )
    loss = results["loss"]
    shares = loss["vision_share"]
    lines.append(
        f"\nThe loss saves {1 / loss['memory_ratio']:.0%} of stock's bytes for backward; vision takes "
        f"{shares['stock']:.0%} of stock's time, {shares['fovea']:.0%} of Fovea's. Log-probabilities differ by "
        f"{loss['logps_differ_by']:.1e} at most, gradients by {loss['gradients_differ_by']:.1e} of their norm."
    )
    reached = loss["backward_share_of_matmul"]
    lines.append(
        f"Backward, attention not counted, reaches {reached['stock']:.0%} of the rate of a large matrix product "
        f"({results['matmul_tflops']:.2f} TFLOP/s) in stock, {reached['fovea']:.0%} in Fovea."
    )
    stage = "loss" if "step" not in results else "step"
    for name in ("stock", "fovea"):
        counts = results[stage]["counts"][name]
        lines.append(f"The {stage} of {name}: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
    return "\n".join(lines)


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--size", default="qwen2_5_vl-small", choices=list(SHAPES))
    parser.add_argument("--prompt_tokens", type=int, default=1000, help="images included")
    parser.add_argument("--completion_tokens", type=int, default=250, help="crops included")
    parser.add_argument("--num_generations", type=int, default=8)
    parser.add_argument("--num_zooms", type=int, default=2, help="in each rollout")
    parser.add_argument("--num_tasks", type=int, default=1, help="groups in a step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--lora_r", type=int, default=0, help="0 trains all weights of the language tower")
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--loss_only", action="store_true", help="leave rollouts and whole steps out")
    parser.add_argument("--json", type=Path, help="write everything here")
    args = parser.parse_args()
    logging.set_verbosity_error()
    results = measure(args)
    print(table(results))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
