"""Slice `loss`: loss and backward of a group, stock TRL against ours, seconds, memory, and what the doctor foresaw."""

from __future__ import annotations

import gc
import statistics
from collections import Counter
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import torch
from trl import ModelConfig

from benchmarks.gpu.cases import Case, device, gib, peak_bytes, place, restart_peak, synchronized
from benchmarks.sides import Setup, Side, make_side, matmul_rate, recorded
from doctor import memory
from doctor.memory import Sharding
from fovea.kernels.layouts import without_adapters
from fovea.kernels.packing import Row
from fovea.models.random_models import random_model

SIZES = ("qwen2_5_vl-7b", "qwen3_vl-8b", "qwen2_5_vl-3b")
LENGTHS = {"4K": (4096, 800), "1K": (1024, 256), "16K": (16384, 1000)}
"""Prompt tokens, nearly all of them visual, and completion tokens, two crops included."""
SECONDS = {"1K": 25, "4K": 45, "16K": 110}


LONG_SECONDS = 30
"""Of a pass beside which the choice of kernels in the first one is nothing."""


def cases(small: bool) -> list[Case]:
    if small:
        sizes, lengths = ("qwen2_5_vl-narrow", "qwen3_vl-narrow"), {"400": (400, 200)}
        return [_case(size, "LoRA", "400", lengths, 12) for size in sizes] + [
            _case(sizes[0], "full", "400", lengths, 12)
        ]
    order = [(size, "LoRA", length) for length in ("4K", "1K") for size in SIZES]
    order += [("qwen2_5_vl-3b", "full", "4K"), ("qwen2_5_vl-7b", "full", "4K")]
    order += [(size, "LoRA", "16K") for size in SIZES] + [("qwen3_vl-8b", "full", "4K")]
    return [_case(*which, LENGTHS, SECONDS[which[-1]]) for which in order]


def _case(size: str, mode: str, length: str, lengths: dict[str, tuple[int, int]], seconds: float) -> Case:
    prompt, completion = lengths[length]
    setup = Setup(prompt, completion, lora_r=64 if mode == "LoRA" else 0, gradient_checkpointing=True)
    return Case("loss", f"{size}, {mode}, {length}", seconds, partial(_measure, size, setup))


def _measure(size: str, setup: Setup, seconds_left: float) -> dict[str, Any]:
    results: dict[str, Any] = {}
    inputs: dict[str, Any] = {}
    for name in ("ours", "stock"):
        with TemporaryDirectory() as folder:
            model = random_model(size, stock=name == "stock", **place())
            side, _ = make_side(model, setup, folder, stock=name == "stock")
            inputs = inputs or recorded(side, setup.num_generations, without_model=True)
            results[name] = _timed(side, inputs)
            if name == "ours" and "seconds" in results[name]:
                rate = matmul_rate(model.network.dtype, device())
                results["matmul_tflops"] = rate / 1e12
                results["share_of_matmul"] = _share(side, inputs, rate)
                results["estimate"] = _estimate(model.network, setup)
                results["profile"] = _profile(side, inputs)
            del model, side
            gc.collect()
    return results | {"text": _text(results)}


def _timed(side: Side, inputs: dict[str, Any]) -> dict[str, Any]:
    """Seconds of the loss and its backward, one uncounted pass before unless a pass is long; the most memory."""
    restart_peak()
    try:
        first = side.loss_seconds(inputs)
        seconds = [first]
        if first < LONG_SECONDS:
            side.trainer.model.zero_grad()
            restart_peak()
            seconds = [side.loss_seconds(inputs) for _ in range(1 if first > 8 else 3)]
    except torch.OutOfMemoryError as error:
        return {"out_of_memory": str(error)}
    return {"seconds": statistics.median(seconds), "all_seconds": seconds, "first": first, "peak": peak_bytes()}


def _share(side: Side, inputs: dict[str, Any], rate: float) -> float | None:
    """Of the device's matrix rate, what backward reaches; None where counting its operations takes too much memory."""
    try:
        return side.backward_rate(inputs) / rate
    except torch.OutOfMemoryError:
        return None


def _profile(side: Side, inputs: dict[str, Any]) -> dict[str, Any]:
    """Of one pass: seconds, the share in which the device computes, and the seconds of its ten longest kernels."""
    started = synchronized()
    loss = side.loss(inputs)
    forward = synchronized() - started
    loss.backward()
    seconds = synchronized() - started
    if device() == "cpu":
        return {"seconds": seconds, "forward": forward}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        side.loss(inputs).backward()
        torch.cuda.synchronize()
    kernels: Counter[str] = Counter()
    for event in profiler.key_averages():
        kernels[event.key[:120]] += event.self_device_time_total / 1e6
    busy = sum(kernels.values()) / seconds
    return {"seconds": seconds, "forward": forward, "busy": busy, "kernels": dict(kernels.most_common(10))}


def _estimate(network: Any, setup: Setup) -> dict[str, Any]:
    """The doctor's arithmetic for the loss of one group: what is held, gradients included, and what backward needs."""
    started = synchronized()
    base, dtype = without_adapters(network), network.dtype
    arguments = ModelConfig(use_peft=bool(setup.lora_r), lora_r=setup.lora_r or 16)
    prepare = partial(
        memory.as_trained,
        arguments=arguments,
        checkpointing=setup.gradient_checkpointing,
        temperature=1.0,
        outputs=("log_probs", "entropy"),
    )
    rows = [Row([1] * setup.prompt_tokens, [1] * setup.completion_tokens, [], 0)] * setup.num_generations
    autocast = torch.bfloat16 if dtype is torch.bfloat16 else None
    loss = memory.loss_bytes(prepare, base, dtype, rows, autocast=autocast)
    held = memory.held_bytes(prepare(memory.outline(base, dtype)), arguments, "adamw_torch", Sharding())
    held.pop("optimizer")
    features = memory.feature_bytes(base, setup.prompt_tokens + setup.completion_tokens)
    total = sum(held.values()) + loss + features
    return {"total": total, "loss": loss, "held": held, "features": features, "took": synchronized() - started}


def _text(results: dict[str, Any]) -> str:
    parts = []
    for name in ("stock", "ours"):
        measurement = results[name]
        parts.append(
            f"{name} out of memory"
            if "out_of_memory" in measurement
            else f"{name} {measurement['seconds']:.2f} s, {gib(measurement['peak'])}"
        )
    if all("seconds" in results[name] for name in ("stock", "ours")):
        parts.append(f"**{results['stock']['seconds'] / results['ours']['seconds']:.1f}x**")
    if "estimate" in results:
        foreseen, peak = results["estimate"]["total"], results["ours"]["peak"]
        share = results["share_of_matmul"]
        parts.append(
            ("" if share is None else f"backward at {share:.0%} of {results['matmul_tflops']:.0f} TFLOP/s, ")
            + f"doctor foresaw {gib(foreseen)}"
            + (f" ({foreseen / peak:.0%})" if peak else "")
        )
    if "busy" in results.get("profile", {}):
        profile = results["profile"]
        parts.append(f"forward {profile['forward'] / profile['seconds']:.0%} of it, card busy {profile['busy']:.0%}")
    return "; ".join(parts)
