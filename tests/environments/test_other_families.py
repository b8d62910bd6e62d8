"""Qwen2-VL and LLaVA-OneVision: cold start and evaluation through Transformers' own forward and generate."""

import pytest
import torch
from PIL import Image
from trl import SFTConfig

from doctor.environment import Subject, misread_boxes
from doctor.findings import Examination
from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.play import Sampling, play
from environments.policies.transformers import TransformersPolicy
from environments.rendering import Renderer, batched
from environments.seats import Limits
from fovea.boxes import Frame
from fovea.images import PixelLimits
from fovea.kernels.image_blocks import block_images
from fovea.kernels.token_pooling import pooled_tokens
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


@pytest.mark.parametrize("asked", [{"max_image_tokens": 256}, {"environment": "focus"}])
def test_smaller_views_are_refused_where_they_save_no_token(model, make_task, asked):
    arguments = EpisodeArguments(**asked)
    if model.network.config.model_type == "qwen2_vl":
        assert environment_factory(arguments, model)
    else:
        with pytest.raises(ValueError, match="tiles of a fixed number of tokens"):
            environment_factory(arguments, model)


@pytest.mark.parametrize("factor", [1, 2])
def test_masked_and_pooled_images_are_seen_alike_by_forward_and_generate(model, factor):
    block_images(model.network, model.processor.tokenizer, [0])
    pictures = [Image.effect_noise((60, 40), 80).convert("RGB") for _ in range(3)]
    blocks = [{"type": "image", "image": picture} for picture in pictures]
    renderer = Renderer(model.processor, token_pooling=factor)
    ids = renderer.prompt_ids([{"role": "user", "content": [*blocks, {"type": "text", "text": "Which?"}]}], [])
    inputs = renderer.model_inputs([ids], [pictures])
    with pooled_tokens(model.network, factor), torch.no_grad():
        chosen = model.network(**inputs).logits[0, -1].argmax()
        written = model.network.generate(**inputs, max_new_tokens=1, do_sample=False, eos_token_id=None)
    assert written[0, -1] == chosen


def test_a_zoom_gives_them_a_crop_of_the_original(model):
    examination = Examination()
    examination.check("it", misread_boxes, Subject.of((model, True), [], EpisodeArguments()))
    assert [finding.verdict.value for finding in examination.findings] == ["pass"]


@pytest.mark.parametrize("num_images", [1, 2, 3])
def test_images_are_seen_as_transformers_processor_shows_them(model, make_task, num_images):
    """Tiles of LLaVA-OneVision: of a single image, and none where there are several."""
    if model.network.config.model_type == "qwen2_vl":
        pytest.skip("it has no tiles")
    sizes = [(200, 90), (90, 200), (60, 56)][:num_images]
    pictures = [Image.effect_noise(size, 80).convert("RGB") for size in sizes]
    blocks = [{"type": "image", "image": picture} for picture in pictures]
    messages = [{"role": "user", "content": [*blocks, {"type": "text", "text": "Which?"}]}]
    renderer = Renderer(model.processor)
    ids = renderer.prompt_ids(messages, [])
    ours = renderer.model_inputs([ids, ids], [pictures, pictures])
    text = model.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    theirs = model.processor(text=[text, text], images=[pictures, pictures], return_tensors="pt")
    assert {*ours} == {*theirs} - {"mm_token_type_ids"}
    for name in ours.keys() - {"batch_num_images"}:  # runs of ours go over the border between conversations
        assert torch.equal(ours[name], theirs[name]), name
    with torch.no_grad():
        ours_logits, their_logits = model.network(**ours).logits, model.network(**theirs).logits
    assert torch.equal(ours_logits, their_logits)
    assert (num_images > 1) == (ids.count(renderer.image_token_id) == 17 * num_images)


def test_a_conversation_of_several_images_keeps_its_tiles_when_a_crop_comes(model, picture):
    renderer = Renderer(model.processor)
    block = {"type": "image", "image": picture}
    crop = picture.crop((0, 0, 320, 240))
    for shown in ([block], [block, block]):
        messages = [{"role": "user", "content": [*shown, {"type": "text", "text": "Which?"}]}]
        ids, several = renderer.prompt_ids(messages, []), len(shown) > 1
        before = renderer.inputs_of(ids, [picture] * len(shown))
        ids += renderer.observation_ids([{"type": "image", "image": crop}], among_several=several)
        after = renderer.inputs_of(ids, [picture] * len(shown) + [crop])
        assert after[:-1] == before and after[-1].is_whole is (several and renderer.cuts_tiles)
        model.network(**renderer.model_inputs([ids], [[picture] * len(shown) + [crop]]))


def test_an_image_of_several_is_not_batched_alone():
    _, processor = llava_onevision()
    lone = Renderer(processor).image_inputs(Image.new("RGB", (80, 60)), among_several=True)
    with pytest.raises(ValueError, match="stands alone"):
        batched([lone])


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
