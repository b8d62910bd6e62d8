"""Batches of traces."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from environments.trace_tokens import TraceEncoder
from environments.traces import to_trace


class TraceCollator(TraceEncoder):
    """Batches trace records of `environments.trace_files.read_traces` for a vision-language model."""

    def __call__(self, records: Sequence[dict]) -> dict[str, torch.Tensor]:
        """Left-padded model inputs and `labels` [B, N], -100 where there is no loss."""
        encoded = [self.encode(to_trace(record)) for record in records]
        batch = self.renderer.model_inputs([ids for ids, _, _ in encoded], [images for _, _, images in encoded])
        labels = torch.full_like(batch["input_ids"], -100)
        for row, (ids, mask, _) in enumerate(encoded):
            kept = [token if counts else -100 for token, counts in zip(ids, mask, strict=True)]
            labels[row, -len(ids) :] = torch.tensor(kept)
        return {**batch, "labels": labels}
