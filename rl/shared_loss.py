"""GRPO's loss with what a group shares computed once: log-probabilities and entropies of packed rollouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch.utils.checkpoint import checkpoint
from trl.trainer.utils import split_pixel_values_by_grid, split_tensor_dict, unsplit_pixel_values_by_grid

from environments.rendering import Renderer
from fovea.kernels.image_features import share_image_features
from fovea.kernels.layouts import allow_layouts
from fovea.kernels.packing import Packed, Row, pack, split_further, split_rows, unpad
from rl.arguments import GRPOArguments


class SharedPrefixLoss:
    """Mixed into TRL's trainer: once `share_prefix` has been called, rollouts of one prompt are one row of the loss."""

    model: Any
    ref_model: Any
    accelerator: Any
    args: GRPOArguments
    renderer: Renderer
    _step: int
    num_iterations: int
    _buffered_inputs: Any
    _generate_and_score_completions: Any

    shares_prefix = False
    """True if the loss is Fovea's; otherwise TRL computes it."""

    def share_prefix(self) -> None:
        """Lets the models take packed rows, if the arguments ask for it and their families can."""
        networks = [
            self.accelerator.unwrap_model(network) for network in (self.model, self.ref_model) if network is not None
        ]
        if self.ref_model is not None:
            share_image_features(*networks)
        self.shares_prefix = self.args.shared_prefix and all(allow_layouts(network) for network in networks)
        is_shared = self.shares_prefix and self.accelerator.num_processes > 1
        self._stand_in = self.renderer.smallest_picture() if is_shared else None

    def _prepare_input(self, data: Any) -> Any:
        """Trainer's method of the same name; pixels wait in host memory until their part of the loss is packed."""
        if not self.shares_prefix or not isinstance(data, Mapping) or "pixel_values" not in data:
            return super()._prepare_input(data)  # type: ignore[misc]
        moved = {name: self._prepare_input(value) for name, value in data.items() if name != "pixel_values"}
        return {**moved, "pixel_values": data["pixel_values"]}

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """TRL's method of the same name, without its shuffle of single rollouts, which would tear groups apart."""
        if not self.shares_prefix or not self.model.training:
            return super()._prepare_inputs(generation_batch)  # type: ignore[misc]
        steps = self.args.num_micro_batches
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch: Any = split_pixel_values_by_grid(self._generate_and_score_completions(generation_batch))
            parts: list[Any] = split_tensor_dict(batch, steps)
            self._buffered_inputs = list(map(unsplit_pixel_values_by_grid, parts))
        return self._buffered_inputs[self._step % steps]

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **images: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """TRL's method of the same name, [B, T] log-probabilities and entropies, each shared prompt computed once."""
        if not self.shares_prefix or compute_aux_loss:
            return super()._get_per_token_logps_and_entropies(  # type: ignore[misc]
                model,
                input_ids,
                attention_mask,
                logits_to_keep,
                batch_size,
                compute_entropy,
                compute_aux_loss,
                **images,
            )
        rollouts = unpad(
            input_ids,
            attention_mask,
            logits_to_keep,
            image_token_id=self.renderer.image_token_id,
            merge_size=self.renderer.merge_size,
            pixel_values=images.get("pixel_values"),
            image_grid_thw=images.get("image_grid_thw"),
        )
        logps_B_T = torch.zeros(len(rollouts), logits_to_keep, device=input_ids.device)
        entropies_B_T = torch.zeros_like(logps_B_T)
        step = batch_size or len(rollouts)
        for start in range(0, len(rollouts), step):
            for rows, columns, logps_N, entropies_N in self._computed(model, rollouts[start : start + step]):
                places = (start + rows, columns)
                logps_B_T = logps_B_T.index_put(places, logps_N)
                entropies_B_T = entropies_B_T.index_put(places, entropies_N)
        return logps_B_T, entropies_B_T if compute_entropy else None, None

    def _computed(self, model: Any, rollouts: Sequence[Row]) -> Iterator[tuple[torch.Tensor, ...]]:
        """Part by part: row and column [N] of each completion token, its log-probability and its entropy.

        Where there are several parts, each is computed again in backward, so that memory is that of one.
        """
        parts = self._parts(rollouts)
        for part in parts:
            packed = pack(
                self.accelerator.unwrap_model(model),
                [rollouts[row] for row in part],
                image_token_id=self.renderer.image_token_id,
                stand_in=self._stand_in,
            )
            if len(parts) > 1 and torch.is_grad_enabled():
                logps, entropies = checkpoint(self._forward, model, packed, use_reentrant=False)
            else:
                logps, entropies = self._forward(model, packed)
            yield torch.tensor(part, device=packed.rows.device)[packed.rows], packed.columns, logps, entropies

    def _parts(self, rollouts: Sequence[Row]) -> list[list[int]]:
        """Row numbers of what is forwarded together: equally many parts on all processes, which run together."""
        if self.args.max_packed_tokens is None:
            return [list(range(len(rollouts)))]
        parts = split_rows(rollouts, self.args.max_packed_tokens)
        return split_further(parts, max(gather_object([len(parts)])))

    def _forward(self, model: Any, packed: Packed) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies of the tokens that `packed` predicts."""
        with self.accelerator.autocast():
            outputs = model(**packed.inputs, fused_lm_head=True)
        logps = outputs.log_probs[0, packed.predicting]
        is_reference = outputs.entropy is None
        return logps, torch.zeros_like(logps) if is_reference else outputs.entropy[0, packed.predicting]
