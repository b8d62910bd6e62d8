"""SFT on traces without padding: a batch is one row, in which the text that its traces begin with stands once.

TRL packs text alone; here images come along. Losses, gradients and metrics are those of TRL's padded forward.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from trl import SFTTrainer

from environments.rendering import Renderer
from fovea.checkpoints import WholeCheckpoints
from fovea.packing import Row, num_common, pack, unpad
from fovea.shared_prefix import allow_layouts


class ColdStartTrainer(WholeCheckpoints, SFTTrainer):
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

    def _forward(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        **options: Any,
    ) -> Any:
        """What `model` gives for the padded batch [B, N], from one row in which each token stands once."""
        options.pop("mm_token_type_ids", None)
        renderer: Any = self.renderer
        rows = unpad(
            input_ids,
            attention_mask,
            input_ids.shape[1],
            image_token_id=renderer.image_token_id,
            merge_size=renderer.merge_size,
            pixel_values=pixel_values,
            image_grid_thw=image_grid_thw,
        )
        wanted = [label[mask.bool()] for label, mask in zip(labels, attention_mask, strict=True)]
        openings = [
            row.completion_ids[: (label != -100).tolist().index(True)] for row, label in zip(rows, wanted, strict=True)
        ]
        common = num_common(openings, renderer.image_token_id)
        packed = pack(
            self.accelerator.unwrap_model(model),
            [Row(row.completion_ids[:common], row.completion_ids[common:], row.images, 0) for row in rows],
            image_token_id=renderer.image_token_id,
            stand_in=self._stand_in,
        )
        packed.inputs["shift_labels"][0, packed.predicting] = torch.cat([label[common:] for label in wanted])
        outputs = model(**packed.inputs, **options)
        if len(packed.unread):
            read = torch.ones_like(outputs.log_probs).index_fill(1, packed.unread, 0)
            for name in ("log_probs", "entropy", "is_top1", "label_mask"):
                outputs[name] = outputs[name] * read.to(outputs[name].dtype)
        return outputs
