"""SFT on traces without padding: a batch is one row, in which the text that its traces begin with stands once.

TRL packs text alone; here images come along. Losses, gradients and metrics are those of TRL's padded forward.
"""

from __future__ import annotations

from functools import partial
from itertools import takewhile
from operator import eq
from typing import Any

import torch
from trl import SFTTrainer

from environments.rendering import Renderer
from fovea.kernels.layouts import allow_layouts
from fovea.kernels.packing import Row, num_common, pack, unpad
from fovea.training import MaskedCheckpoints


class ColdStartTrainer(MaskedCheckpoints, SFTTrainer):
    """`SFTTrainer` whose checkpoints count only when they are whole; given a `renderer`, it forwards without padding.

    Families that do not take layouts are forwarded as ever.
    """

    def __init__(self, model: Any, args: Any, *, renderer: Renderer | None = None, **kwargs: Any) -> None:
        super().__init__(model, args, **kwargs)
        self.renderer = renderer
        network = self.accelerator.unwrap_model(self.model)
        self.packs = renderer is not None and allow_layouts(network)
        is_shared = self.packs and self.accelerator.num_processes > 1
        self._stand_in = renderer.smallest_picture() if renderer and is_shared else None

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """TRL's loss and metrics; the forward that it asks for is `_forward`."""
        return super().compute_loss(partial(self._forward, model) if self.packs else model, inputs, *args, **kwargs)

    def _forward(self, model: Any, labels: torch.Tensor | None = None, **inputs: Any) -> Any:
        """The output of `model` for the padded batch [B, N], computed from one row in which each token stands once."""
        if labels is None:  # TRL wants the logits of the batch as it is
            return model(**inputs)
        renderer: Any = self.renderer
        input_ids, attention_mask = inputs["input_ids"], inputs["attention_mask"]
        rows = unpad(
            input_ids,
            attention_mask,
            input_ids.shape[1],
            image_token_id=renderer.image_token_id,
            merge_size=renderer.merge_size,
            pixel_values=inputs.get("pixel_values"),
            image_grid_thw=inputs.get("image_grid_thw"),
        )
        wanted = [label[mask.bool()].tolist() for label, mask in zip(labels, attention_mask, strict=True)]
        openings = [
            row.completion_ids[: sum(1 for _ in takewhile(partial(eq, -100), label))]
            for row, label in zip(rows, wanted, strict=True)
        ]
        common = num_common(openings, renderer.image_token_id)
        if common < 2:
            return model(labels=labels, **inputs)
        packed = pack(
            self.accelerator.unwrap_model(model),
            [Row(row.completion_ids[:common], row.completion_ids[common:], row.images, 0) for row in rows],
            image_token_id=renderer.image_token_id,
            stand_in=self._stand_in,
        )
        kept = torch.tensor([token for label in wanted for token in label[common:]])
        packed.inputs["shift_labels"][0, packed.predicting] = kept.to(labels.device)
        options = {name: value for name, value in inputs.items() if name in ("use_cache", "fused_lm_head")}
        return model(**packed.inputs, **options)
