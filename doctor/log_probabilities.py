"""Checks that rollouts and loss agree about the model's log-probabilities."""

from __future__ import annotations

from typing import Any

import torch
from trl.trainer.utils import add_fused_lm_head

from doctor.environment import Subject
from doctor.findings import Note, evenly
from environments.play import Sampling, play
from environments.policies.transformers import TransformersPolicy
from environments.rendering import Renderer
from environments.seats import Limits
from fovea.episodes import Episode
from fovea.kernels.layouts import allow_layouts
from fovea.kernels.packing import Row, pack, unpad

TOLERANCE = 1e-3
"""Of log-probabilities in float32."""


def differing_log_probabilities(note: Note, subject: Subject) -> None:
    """Log-probabilities of the loss that are not those by which tokens were sampled, crops included.

    Episodes with a zoom are scored as the trainer scores them and by the model's plain forward; and what the model
    writes greedily, turn by turn from its caches, has to be the likeliest in the loss. The model is float32 from here.
    """
    network, renderer = subject.model.network.float().eval(), subject.renderer
    rows = [_row(renderer, episode) for episode in subject.play(evenly(subject.tasks, 3))]
    expected = [_plain_logits(network, renderer, row).log_softmax(-1).gather(1, _ids(row))[:, 0] for row in rows]
    if not allow_layouts(network):
        note.warn(
            f"{network.config.model_type} is trained as stock TRL trains it: nothing is shared",
            "use a Qwen-VL model with the attention of PyTorch or flash attention, if its speed is not enough",
        )
        return
    add_fused_lm_head(network)
    pairs = zip(rows, expected, strict=True)
    worst = max(float((_loss_logps(network, renderer, row) - logps).abs().max()) for row, logps in pairs)
    num_likeliest, num_tokens = _greedy_tokens(network, subject)
    if worst > TOLERANCE or num_likeliest < 0.98 * num_tokens:
        note.fail(
            f"rollouts and loss differ: log-probabilities by {worst:.1e}, {num_tokens - num_likeliest} of "
            f"{num_tokens} greedy tokens",
            "--shared_prefix false, and please report it",
        )
    else:
        note.ok(
            f"loss and plain forward differ by {worst:.1e} at most; {num_likeliest} of {num_tokens} greedy tokens are "
            "likeliest"
        )


def _greedy_tokens(network: Any, subject: Subject) -> tuple[int, int]:
    """The number of greedy tokens that are also the likeliest by the model's plain forward, and the number of all."""
    renderer = subject.renderer
    policy = TransformersPolicy(network, renderer, Sampling(0.0))
    short = Limits(2, min(48, subject.limits.max_tokens_per_turn), subject.limits.max_completion_tokens)
    tasks = evenly(subject.tasks, 3)
    num_likeliest = num_tokens = 0
    for episode in play(policy, tasks, environment_factory=subject.make_environment, limits=short, renderer=renderer):
        row = _row(renderer, episode)
        logits = _plain_logits(network, renderer, row)
        logits[:, renderer.placeholder_ids] = -torch.inf
        written = torch.tensor(episode.record.loss_mask, dtype=torch.bool)
        num_likeliest += int((logits.argmax(-1) == _ids(row)[:, 0])[written].sum())
        num_tokens += int(written.sum())
    return num_likeliest, num_tokens


def _row(renderer: Renderer, episode: Episode) -> Row:
    record = episode.record
    batch = renderer.model_inputs([record.prompt_ids + record.completion_ids], [record.images])
    return unpad(
        batch["input_ids"],
        batch["attention_mask"],
        len(record.completion_ids),
        image_token_id=renderer.image_token_id,
        merge_size=renderer.merge_size,
        **{name: batch.get(name) for name in ("pixel_values", "image_grid_thw")},
    )[0]


def _ids(row: Row) -> torch.Tensor:
    return torch.tensor(row.completion_ids)[:, None]


@torch.no_grad()
def _plain_logits(network: Any, renderer: Renderer, row: Row) -> torch.Tensor:
    """Logits [completion, vocabulary] of the model's own forward."""
    ids = torch.tensor([row.prompt_ids + row.completion_ids])
    inputs = {"input_ids": ids, "mm_token_type_ids": (ids == renderer.image_token_id).long()}
    if row.images:
        inputs |= {"pixel_values": torch.cat([pixels for pixels, _ in row.images])}
        inputs |= {"image_grid_thw": torch.stack([grid for _, grid in row.images])}
    return network(**inputs, logits_to_keep=len(row.completion_ids) + 1).logits[0, :-1].float()


@torch.no_grad()
def _loss_logps(network: Any, renderer: Renderer, row: Row) -> torch.Tensor:
    """Log-probabilities [completion] as the loss computes them, for a group of two such rollouts."""
    packed = pack(network, [row, row], image_token_id=renderer.image_token_id)
    logps = network(**packed.inputs, fused_lm_head=True).log_probs[0, packed.predicting]
    return logps[packed.rows == 0]
