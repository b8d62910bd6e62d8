"""The callbacks that both trainings use."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.modules.module import _IncompatibleKeys

from fovea.jsonl import read_jsonl
from fovea.runs.checkpoints import WholeCheckpoints
from fovea.runs.directory import RunDirectory
from fovea.training import MetricsCallback, TimeLimitCallback, lost_to_rounding


def stops(callback, monkeypatch, *, after_seconds: float) -> bool:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    control = SimpleNamespace(should_training_stop=False, should_save=False)
    callback.on_train_begin(None, None, control)
    now[0] = after_seconds
    callback.on_step_end(SimpleNamespace(save_strategy="epoch"), None, control)
    assert control.should_save == control.should_training_stop, "the next job goes on from there"
    return control.should_training_stop


def test_training_ends_once_its_minutes_are_over(monkeypatch):
    assert not stops(TimeLimitCallback(2), monkeypatch, after_seconds=119)
    assert stops(TimeLimitCallback(2), monkeypatch, after_seconds=121)
    assert not stops(TimeLimitCallback(None), monkeypatch, after_seconds=1e9)


def test_weights_that_are_tied_are_not_told_to_be_missing():
    """The best checkpoint of a model with tied weights is loaded without its head."""
    told = []

    class Loads:
        def _issue_warnings_after_load(self, load_result):
            told.append(load_result.missing_keys)

    class Trainer(WholeCheckpoints, Loads):
        model = SimpleNamespace(all_tied_weights_keys={"lm_head.weight": "embed.weight"})
        accelerator = SimpleNamespace(unwrap_model=lambda model: model)

    Trainer()._issue_warnings_after_load(_IncompatibleKeys(["lm_head.weight", "norm.weight"], []))
    assert told == [["norm.weight"]]


def test_only_the_main_process_writes_metrics(tmp_path):
    callback = MetricsCallback(RunDirectory(tmp_path))
    for is_main in (True, False):
        state = SimpleNamespace(is_world_process_zero=is_main, global_step=3)
        callback.on_log(None, state, None, logs={"loss": 0.5})
    assert read_jsonl(tmp_path / "metrics.jsonl") == [{"step": 3, "loss": 0.5}]


@pytest.mark.parametrize(
    ("dtype", "rate", "moves"),
    [
        (torch.bfloat16, 1e-6, False),
        (torch.bfloat16, 5e-6, False),
        (torch.bfloat16, 1e-4, True),
        (torch.float32, 1e-6, True),
    ],
)
def test_a_rate_that_rounds_to_nothing_is_told(dtype, rate, moves):
    """By AdamW on weights as released ones are."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter((0.02 * torch.randn(20_000)).to(dtype))
    before, optimizer = weight.detach().clone(), torch.optim.AdamW([weight], lr=rate, weight_decay=0)
    for _ in range(10):
        weight.grad = torch.randn_like(weight)
        optimizer.step()
    assert ((weight != before).float().mean() > 0.6) == moves
    assert (lost_to_rounding(dtype, rate) is None) == moves
