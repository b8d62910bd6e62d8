"""Qwen2-VL and LLaVA-OneVision: cold start and evaluation through Transformers' own forward and generate."""

import pytest
import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    SiglipVisionConfig,
)
from trl import SFTConfig

from doctor.environment import Subject, misread_boxes
from doctor.findings import Examination
from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.play import Limits, Sampling, play
from environments.policies.transformers import TransformersPolicy
from environments.rendering import Renderer
from fovea.boxes import Frame
from fovea.images import PixelLimits
from fovea.models.loading import freeze_vision, load_model
from fovea.models.processors import load_processor
from rl.trainer import ZoomGRPOTrainer
from sft.collator import TraceCollator
from sft.trainer import ColdStartTrainer
from tests.training import ON_CPU, trace_record

TEXT = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 32768,
}  # fmt: skip


def qwen2_vl():
    tokenizer = load_processor("tiny").tokenizer
    ids = {f"{kind}_token_id": tokenizer.convert_tokens_to_ids(f"<|{kind}_pad|>") for kind in ("image", "video")}
    ids |= {f"vision_{end}_token_id": tokenizer.convert_tokens_to_ids(f"<|vision_{end}|>") for end in ("start", "end")}
    text = TEXT | {
        "vocab_size": len(tokenizer), "rope_parameters": {"rope_type": "default", "mrope_section": [4, 6, 6]},
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "patch_size": 14}
    network = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids))
    images = Qwen2VLImageProcessor(patch_size=14, size={"shortest_edge": 56 * 56, "longest_edge": 168 * 168})
    template = load_processor("tiny").chat_template
    return network, Qwen2VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=template)


def llava_onevision():
    backend = load_processor("tiny").tokenizer.backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.add_tokens(["<image>", "<video>"], special_tokens=True)
    text = Qwen2Config(**TEXT, vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id,
                       pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=14, image_size=56,
        vision_use_head=False,
    )  # fmt: skip
    pinpoints = [[56, 56], [56, 112], [112, 56], [112, 112]]
    ids = dict(zip(("image_token_index", "video_token_index"),
                   tokenizer.convert_tokens_to_ids(["<image>", "<video>"]), strict=True))  # fmt: skip
    config = LlavaOnevisionConfig(vision_config=vision, text_config=text, image_grid_pinpoints=pinpoints, **ids)
    images = LlavaOnevisionImageProcessor(size={"height": 56, "width": 56}, image_grid_pinpoints=pinpoints)
    processor = LlavaOnevisionProcessor(
        images, tokenizer, LlavaOnevisionVideoProcessor(), num_image_tokens=16,
        vision_feature_select_strategy="full", chat_template="{{ messages }}",
    )  # fmt: skip
    return LlavaOnevisionForConditionalGeneration(config), processor


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
    assert model.frame is (Frame.INPUT if model.network.config.model_type == "qwen2_vl" else Frame.PER_MILLE)


def test_grpo_says_which_families_it_trains(model):
    if model.network.config.model_type == "qwen2_vl":
        pytest.skip("it is one of them")
    with pytest.raises(ValueError, match="do SFT and evaluation"):
        from rl.arguments import GRPOArguments

        args = GRPOArguments(output_dir="unused", **ON_CPU)
        ZoomGRPOTrainer(model.network, [], args, train_tasks=[], processing_class=model.processor)
