"""Slice `exact`: log-probabilities and gradients of shared prefixes against stock TRL's forward, by type and size."""

from __future__ import annotations

import copy
import gc
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from transformers import AutoModelForImageTextToText

from benchmarks.gpu.cases import Case, device
from benchmarks.sides import Setup, make_side, recorded
from fovea.models.loading import Model, quickened
from fovea.models.names import TINY
from fovea.models.processors import load_processor
from fovea.models.random_models import random_model

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def cases(small: bool) -> list[Case]:
    short = Setup(prompt_tokens=320, completion_tokens=200)
    exact_cases = [Case("exact", "tiny", 20, partial(_measure, None, short))]
    for size in ("qwen2_5_vl-narrow", "qwen3_vl-narrow") if small else ("qwen2_5_vl-3b", "qwen3_vl-4b"):
        setup = short if small else Setup(prompt_tokens=1000, completion_tokens=250)
        exact_cases.append(Case("exact", f"{size}, 4 layers", 20, partial(_measure, size, setup)))
    return exact_cases


def _model(size: str | None, *, stock: bool) -> Model:
    """In bfloat16's values, so that all sides have the same weights."""
    if size is not None:
        return random_model(size, stock=stock, num_layers=4, dtype=torch.bfloat16, device=device())
    network = AutoModelForImageTextToText.from_pretrained(TINY, dtype=torch.bfloat16)
    network.to(cast(Any, device()))
    return Model(network if stock else quickened(network), load_processor("tiny"), "tiny")


def _measure(size: str | None, setup: Setup, seconds_left: float) -> dict[str, Any]:
    results: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    inputs: dict[str, Any] = {}
    for name, dtype in DTYPES.items():
        for stock in (False, True):
            with TemporaryDirectory() as folder:
                model = _model(size, stock=stock)
                model.network.to(dtype)
                side, _ = make_side(model, setup, folder, stock=stock)
                inputs = inputs or recorded(side, setup.num_generations, without_model=True)
                results[f"{'stock' if stock else 'ours'} {name}"] = side.logps_and_gradients(copy.copy(inputs))
                del model, side
                gc.collect()
    right_logps, right = results["stock fp32"]
    errors = {
        name: {
            "logps": float((logps - right_logps).abs().max()),
            "logps_mean": float((logps - right_logps).abs().mean()),
            "gradients": float((gradients - right).norm() / right.norm()),
        }
        for name, (logps, gradients) in results.items()
        if name != "stock fp32"
    }
    text = "from stock fp32: " + "; ".join(
        f"{name} log-probs {error['logps']:.1e} (mean {error['logps_mean']:.1e}), gradients {error['gradients']:.1e}"
        for name, error in errors.items()
    )
    return {"text": text, "errors": errors}
