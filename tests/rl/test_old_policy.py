"""The log-probabilities of the policy that played, kept from the first pass of learning."""

import copy
from contextlib import nullcontext

import pytest
import torch

from rl.shared_loss import SharedPrefixLoss

TWICE = {"num_iterations": 2, "max_steps": 2}


def trained(build, tiny, monkeypatch, folder, **options):
    """Weights of a training, its ratios' clipping by step, and its forwards without a gradient."""
    forwards = []
    stock = SharedPrefixLoss._get_per_token_logps_and_entropies

    def counted(self, *args, **kwargs):
        forwards.append(torch.is_grad_enabled())
        return stock(self, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(SharedPrefixLoss, "_get_per_token_logps_and_entropies", counted)
        trainer = build(model=copy.deepcopy(tiny.network), output_dir=str(folder), num_tasks=4, **options)
        trainer.train()
    clipped = [row["clip_ratio/region_mean"] for row in trainer.state.log_history if "clip_ratio/region_mean" in row]
    return dict(trainer.model.state_dict()), clipped, forwards.count(False)


@pytest.mark.parametrize(
    ("period", "forwards", "of_trl"),
    [
        (TWICE, 0, 1),
        ({"num_iterations": 3, "max_steps": 3}, 0, 1),
        (TWICE | {"gradient_accumulation_steps": 2}, 0, 1),
        (TWICE | {"shared_prefix": False}, 0, 1),
        # Before the first pass over a generation's second half the policy has moved on.
        (TWICE | {"steps_per_generation": 2, "max_steps": 4}, 1, 1),
        ({"max_steps": 2}, 0, 0),
    ],
    ids=str,
)
def test_the_policy_that_played_is_known_without_a_forward_of_its_own(
    build, tiny, monkeypatch, tmp_path, period, forwards, of_trl
):
    weights, clipped, without_gradient = trained(build, tiny, monkeypatch, tmp_path / "ours", **period)
    assert without_gradient == forwards
    assert clipped[0] == 0, "the first pass is by the policy that played"
    assert (max(clipped) > 0) == ("num_iterations" in period)
    monkeypatch.setattr("rl.old_policy.replaced", lambda *_: nullcontext())
    expected, as_clipped, by_trl = trained(build, tiny, monkeypatch, tmp_path / "stock", **period)
    assert by_trl == of_trl and clipped == pytest.approx(as_clipped, abs=0.05)
    for name, value in weights.items():
        assert torch.allclose(value, expected[name], atol=1e-4), name
