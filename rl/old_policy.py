"""The policy that played a generation, where several steps learn from it.

PPO's ratio compares with the log-probabilities of the policy that played. TRL computes them in a forward of their own.
The first pass of learning has just these, for no step lies between it and the rollouts, so that they are kept from it.
"""

from __future__ import annotations

from typing import Any

import torch

from fovea.replacing import replaced


class OldPolicy:
    """Mixed into TRL's trainer: with `num_iterations` above 1 the first iteration's log-probabilities serve the others.

    Where steps lie between a generation and the first pass over some of it (`steps_per_generation`), and with vLLM's
    correction, TRL computes them as ever.
    """

    tasks: list
    model: Any
    num_iterations: int
    _logps_now: torch.Tensor

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        """TRL's method of the same name, which asks by `num_iterations` alone what the first pass can tell."""
        if not self.tasks:
            return super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        with replaced(self, "num_iterations", 1):
            return super()._generate_and_score_completions(inputs)  # type: ignore[misc]

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, Any, Any]:
        """TRL's method of the same name; what it finds for the loss is kept until the loss is there."""
        found = super()._get_per_token_logps_and_entropies(*args, **kwargs)  # type: ignore[misc]
        if torch.is_grad_enabled():
            self._logps_now = found[0].detach()
        return found

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's method of the same name; the first pass over a batch leaves its log-probabilities there."""
        loss = super()._compute_loss(model, inputs)  # type: ignore[misc]
        if self.tasks and self.num_iterations > 1 and self.model.training:
            inputs.setdefault("old_per_token_logps", self._logps_now)
        return loss
