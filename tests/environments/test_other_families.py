"""Qwen2-VL and LLaVA-OneVision: cold start and evaluation through Transformers' own forward and generate."""

import pytest
import torch
from trl import SFTConfig

from doctor.environment import Subject, misread_boxes
from doctor.findings import Examination
from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.play import Sampling, play
from environments.policies.transformers import TransformersPolicy
from environments.rendering import Renderer
from environments.seats import Limits
from fovea.boxes import Frame
from fovea.images import PixelLimits
from fovea.models.loading import freeze_vision, load_model
from rl.trainer import ZoomGRPOTrainer
from sft.collator import TraceCollator
from sft.trainer import ColdStartTrainer
from tests.families import llava_onevision, qwen2_vl
from tests.training import ON_CPU, trace_record


@pytest.fixture(params=[qwen2_vl, llava_onevision], ids=lambda make: make.__name__)
def model(request, tmp_path):
    torch.manual_seed(0)
    network, processor = request.param()
    network.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    return load_model(str(tmp_path))


@pytest.fixture
def record(picture, tmp_path):
    paths = [tmp_path / "view.png", tmp_path / "crop.png"]
    picture.save(paths[0])
    picture.crop((0, 0, 320, 240)).save(paths[1])
    return trace_record([0, 0, 50, 50], paths)


def test_they_play_episodes(model, make_task):
    renderer = Renderer(model.processor)
    policy = TransformersPolicy(model.network, renderer, Sampling(0.0))
    factory = environment_factory(EpisodeArguments(), model)
    tasks = [make_task(id="a"), make_task(id="b", question="Which <image> <|image_pad|> digit?")]
    episodes = play(policy, tasks, environment_factory=factory, limits=Limits(2, 12, 4096), renderer=renderer)
    assert all(episode.record.completion_ids for episode in episodes)
    assert not {renderer.image_token_id} & {token for e in episodes for token in e.record.completion_ids}


def test_a_zoom_gives_them_a_crop_of_the_original(model):
    examination = Examination()
    examination.check("it", misread_boxes, Subject.of((model, True), [], EpisodeArguments()))
    assert [finding.verdict.value for finding in examination.findings] == ["pass"]


def test_they_learn_from_traces(model, record, tmp_path):
    freeze_vision(model.network)
    renderer = Renderer(model.processor)
    environment = environment_factory(EpisodeArguments(), model)()
    limits = PixelLimits(56 * 56, 168 * 168, 28)
    collator = TraceCollator(renderer, environment, limits)
    batch = collator([record, record])
    said = renderer.tokenizer.decode(batch["labels"][0][batch["labels"][0] != -100])
    assert said.count("<tool_call>") == 1 and said.count("<answer>7</answer>") == 1 and "<image>" not in said
    args = SFTConfig(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=2, learning_rate=2e-3, max_length=None,
        remove_unused_columns=False, dataset_kwargs={"skip_prepare_dataset": True}, **ON_CPU,
    )  # fmt: skip
    from datasets import Dataset

    trainer = ColdStartTrainer(
        model.network, args, renderer=renderer, train_dataset=Dataset.from_list([record] * 8), data_collator=collator,
        processing_class=model.processor,
    )  # fmt: skip
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]


def test_boxes_are_read_in_the_frame_of_the_family(model):
    assert model.frame is Frame.PER_MILLE


def test_grpo_says_which_families_it_trains(model):
    if model.network.config.model_type == "qwen2_vl":
        pytest.skip("it is one of them")
    with pytest.raises(ValueError, match="do SFT and evaluation"):
        from rl.arguments import GRPOArguments

        args = GRPOArguments(output_dir="unused", **ON_CPU)
        ZoomGRPOTrainer(model.network, [], args, train_tasks=[], processing_class=model.processor)
