"""A batch of traces in one row without padding gives the losses, gradients and metrics of TRL's padded forward."""

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.play import play
from environments.policies.oracle import OraclePolicy
from environments.rendering import Renderer
from environments.seats import Limits
from environments.trace_files import read_traces
from environments.traces import write_traces
from fovea.models.loading import freeze_vision
from fovea.models.processors import limited, pixel_limits
from fovea.models.random_models import random_model
from sft.collator import TraceCollator
from sft.trainer import ColdStartTrainer
from synthesis.shapes import make_tasks
from tests.training import ON_CPU


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl"])
def traced(request, tmp_path):
    """A trainer that packs, and a batch of traces with one to three images."""
    model = random_model(f"{request.param}-narrow")
    limited(model.processor, 56 * 56, None)
    freeze_vision(model.network)
    factory = environment_factory(EpisodeArguments(crop_min_pixels=56 * 56, crop_max_pixels=112 * 112), model)
    played = play(
        OraclePolicy(model.frame), make_tasks(num_tasks=6, seed=8), environment_factory=factory, limits=Limits()
    )
    write_traces(played, tmp_path / "traces")
    records = list(read_traces(tmp_path / "traces"))
    renderer = Renderer(model.processor)
    collator = TraceCollator(renderer, factory(), pixel_limits(model.processor))
    args = SFTConfig(
        **ON_CPU, output_dir=str(tmp_path), max_length=None, remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    trainer = ColdStartTrainer(
        model.network, args, renderer=renderer, train_dataset=Dataset.from_list(records), data_collator=collator,
        processing_class=model.processor,
    )  # fmt: skip
    return trainer, collator(records)


def loss_gradients_and_metrics(trainer, batch, *, packs):
    trainer.packs = packs
    trainer.model.train()
    trainer.model.zero_grad()
    trainer._metrics["train"].clear()
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=torch.tensor(50))
    loss.backward()
    gradients = [p.grad.flatten().clone() for p in trainer.model.parameters() if p.grad is not None]
    return (
        loss.item(),
        torch.cat(gradients),
        [trainer._metrics["train"][name][-1] for name in ("entropy", "mean_token_accuracy")],
    )


def test_a_packed_batch_gives_what_the_padded_one_gives(traced):
    trainer, batch = traced
    (stock, oracle, metrics), (loss, gradients, ours) = (
        loss_gradients_and_metrics(trainer, batch, packs=packs) for packs in (False, True)
    )
    assert loss == pytest.approx(stock, rel=1e-5)
    assert (gradients - oracle).norm() < 1e-4 * oracle.norm()
    assert ours == pytest.approx(metrics, rel=1e-4)


def test_no_token_is_forwarded_twice(traced):
    trainer, batch = traced
    seen = []
    trainer.model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["inputs_embeds"].shape[:2].numel()), with_kwargs=True
    )
    trainer.compute_loss(trainer.model, dict(batch))
    tokens = int(batch["attention_mask"].sum())
    assert seen[0] < tokens - 200 * (len(batch["input_ids"]) - 1)  # the system prompt and the tools stand once


def test_traces_without_common_text_are_forwarded_with_padding(traced, monkeypatch):
    trainer, batch = traced
    shared = loss_gradients_and_metrics(trainer, batch, packs=True)
    monkeypatch.setattr("sft.trainer.num_common", lambda *args: 1)
    monkeypatch.setattr("sft.trainer.pack", None)
    assert loss_gradients_and_metrics(trainer, batch, packs=True)[0] == pytest.approx(shared[0], rel=1e-5)


@pytest.mark.filterwarnings("ignore:.*return_outputs")
def test_logits_of_the_padded_batch_are_there_for_those_who_ask(traced):
    trainer, batch = traced
    _, outputs = trainer.compute_loss(trainer.model, dict(batch), return_outputs=True)
    assert outputs.logits.shape[:2] == batch["input_ids"].shape


def test_a_stand_in_takes_part_without_changing_anything(traced):
    trainer, batch = traced
    text = {name: batch[name] for name in ("input_ids", "attention_mask", "labels")}
    shown = text["input_ids"] == trainer.renderer.image_token_id
    text["attention_mask"] = text["attention_mask"].masked_fill(shown, 0)
    alone = loss_gradients_and_metrics(trainer, text, packs=True)
    trainer._stand_in = trainer.renderer.smallest_picture()
    together = loss_gradients_and_metrics(trainer, text, packs=True)
    assert together[0] == pytest.approx(alone[0], rel=1e-5)
    assert torch.allclose(together[1], alone[1], atol=1e-5)
    assert together[2] == pytest.approx(alone[2], rel=1e-4)
