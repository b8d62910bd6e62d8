"""Mistakes that cost people GPU hours: each is found by `fovea doctor`, or refused at the start with its cure."""

import copy
import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from trl import ModelConfig

from doctor import data, environment, episode, grpo, log_probabilities, rewards, traces
from doctor.disk import full_disk
from doctor.environment import Subject
from doctor.findings import Examination, Verdict
from doctor.fit import Launch, exceeded_grpo_memory
from doctor.memory import Sharding
from doctor.model import mask_of_images, read_model
from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.seats import Limits, tools_of
from environments.zoom import ZoomEnvironment
from fovea.arguments import VisionArguments
from fovea.boxes import Box, Frame, View
from fovea.data.task_files import load_tasks
from fovea.images import PixelLimits, cut, fit
from fovea.models.loading import Model
from fovea.models.random_models import random_model
from fovea.tasks import Task
from rl.arguments import GRPOArguments, GRPOScriptArguments
from synthesis.shapes import make_tasks
from synthesis.shapes.albums import make_albums
from tests.training import trace_record


@pytest.fixture
def found():
    """Runs one check and returns what did not pass, as text."""

    def run(function, *given):
        examination = Examination()
        examination.check("it", function, *given)
        return " ".join(f"{f.message} -> {f.cure}" for f in examination.findings if f.verdict is not Verdict.PASS)

    return run


@pytest.fixture
def subject(tiny, episode_arguments):
    return Subject.of((tiny, True), make_tasks(num_tasks=4, seed=0), episode_arguments)


def with_environment(subject, environment_class):
    settings = subject.make_environment()._settings
    return replace(subject, make_environment=lambda: environment_class(settings))


def test_nothing_is_found_where_nothing_is_wrong(found, subject):
    for check in (environment.misread_boxes, environment.resized_images, episode.hidden_tools, episode.refused_zooms):
        assert found(check, subject) == ""
    assert found(episode.overlong_episodes, subject, None) == found(data.unfit_tasks, subject.tasks) == ""
    assert found(log_probabilities.differing_log_probabilities, subject) == ""


def test_prompts_of_many_images_that_do_not_fit_are_told_how_many_tokens_would(found, tiny, episode_arguments):
    albums = make_albums(num_tasks=3, seed=0, families={"find": 1.0}, num_images=[8])
    message = found(episode.overlong_episodes, Subject.of((tiny, True), albums, episode_arguments), 1100)
    budget = int(re.search(r"--max_image_tokens (\d+)", message)[1])
    within = replace(episode_arguments, max_image_tokens=budget)
    assert 0 < budget < 512
    assert found(episode.overlong_episodes, Subject.of((tiny, True), albums, within), 1100) == ""


class SwappedBoxes(ZoomEnvironment):
    def image_zoom_in_tool(self, bbox_2d: list[float], label: str = "", img_idx: int = 0):
        """Zoom in.

        Args:
            bbox_2d: Region as [y1, x1, y2, x2].
            label: What is there.
            img_idx: Index of the image.
        """
        return super().image_zoom_in_tool([bbox_2d[1], bbox_2d[0], bbox_2d[3], bbox_2d[2]], label, img_idx)


def test_an_environment_that_reads_boxes_in_another_frame(found, subject):
    assert "comes back as a crop with" in found(environment.misread_boxes, with_environment(subject, SwappedBoxes))


@pytest.mark.parametrize("frame", ["input", "unit"])
def test_a_frame_set_against_the_family(found, subject, tiny, episode_arguments, frame):
    episode_arguments.box_frame = frame
    wrong = Subject.of((tiny, True), subject.tasks, episode_arguments)
    assert "leave --box_frame to the model's family" in found(environment.misread_boxes, wrong)
    assert found(environment.resized_images, wrong) == found(episode.refused_zooms, wrong) == ""


def trace_of(picture, box, frame, tmp_path):
    """The record of a trace that zooms into `box` (UNIT), written in `frame`."""
    view = View(picture.size, picture.size)
    crop = fit(cut(picture, box), ZOOM_LIMITS)
    paths = [tmp_path / "view.png", tmp_path / "crop.png"]
    for image, path in zip((picture, crop), paths, strict=True):
        image.save(path)
    return trace_record([round(v) for v in box.to(frame, view).coordinates], paths)


ZOOM_LIMITS = PixelLimits(4096, 5120, 16)


@pytest.mark.parametrize(("frame", "outcome"), [(Frame.PER_MILLE, ""), (Frame.ORIGINAL, "--box_frame original")])
def test_traces_whose_boxes_are_in_another_frame(found, subject, picture, tmp_path, frame, outcome):
    record = trace_of(picture, Box(0.2, 0.5, 0.4, 0.7, Frame.UNIT), frame, tmp_path)
    problem = found(traces.boxes_in_another_frame, subject, [record])
    assert outcome in problem and bool(outcome) == bool(problem)


class CropsOfTheView(ZoomEnvironment):
    def image_zoom_in_tool(self, bbox_2d: list[float], label: str = "", img_idx: int = 0):
        """Zoom in.

        Args:
            bbox_2d: Region as [x1, y1, x2, y2].
            label: What is there.
            img_idx: Index of the image.
        """
        blocks = super().image_zoom_in_tool(bbox_2d, label, img_idx)
        view = self._store.fitted(self._task.images[0], self._settings.first_view)
        blurred = cut(view, blocks[0]["crop"].region).resize(blocks[0]["image"].size, Image.Resampling.BICUBIC)
        return [{**blocks[0], "image": blurred}, *blocks[1:]]


def test_crops_cut_from_the_resized_image(found, subject):
    assert "cut from the resized image" in found(environment.misread_boxes, with_environment(subject, CropsOfTheView))


def test_observations_inside_assistant_turns(found, subject, picture, tmp_path):
    record = trace_of(picture, Box(0.2, 0.5, 0.4, 0.7, Frame.UNIT), Frame.PER_MILLE, tmp_path)
    record["messages"][1]["content"] += "<tool_response>a crop</tool_response>"
    args = SimpleNamespace(per_device_train_batch_size=1, gradient_accumulation_steps=1)
    assert "would carry loss" in found(traces.unfit_traces, [record], args)


def test_a_template_without_tools(found, subject):
    processor = copy.copy(subject.model.processor)
    processor.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
        "{% if c.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}"
        "{% endfor %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    )
    model = Model(subject.model.network, processor, "tiny")
    blind = Subject.of((model, True), subject.tasks, EpisodeArguments(crop_min_pixels=4096, crop_max_pixels=5120))
    assert "leaves out the tools ['image_zoom_in_tool']" in found(episode.hidden_tools, blind)


def test_right_padding(tiny):
    from rl.trainer import ZoomGRPOTrainer

    processor = copy.deepcopy(tiny.processor)
    processor.tokenizer.padding_side = "right"
    args = GRPOArguments(output_dir="unused", use_cpu=True, bf16=False, report_to=[])
    with pytest.raises(ValueError, match="set padding_side='left'"):
        ZoomGRPOTrainer(tiny.network, [], args, train_tasks=[], processing_class=processor)


def test_pixel_limits_under_which_crops_are_resized_once_more(tiny):
    with pytest.raises(ValueError, match="keep crop_min_pixels and crop_max_pixels within"):
        environment_factory(EpisodeArguments(crop_max_pixels=10**6), tiny)


class LargeCrops(ZoomEnvironment):
    def reset(self, **row):
        return [{"type": "image", "image": row["images"][0].resize((640, 480))}, {"type": "text", "text": "q"}]


def test_an_environment_whose_images_are_resized_once_more(found, subject):
    assert "is resized once more" in found(environment.resized_images, with_environment(subject, LargeCrops))


def test_a_batch_that_would_split_groups(found):
    args = GRPOArguments(
        output_dir="unused", use_cpu=True, bf16=False, per_device_train_batch_size=12, num_generations=8,
        gradient_accumulation_steps=2,
    )  # fmt: skip
    launch = Launch(ModelConfig(), args, Sharding(), None)
    assert "make it a multiple" in found(grpo.torn_groups, launch, 100)


def test_an_answer_in_the_question(found, make_task):
    leaking = [make_task(id=str(n), question=f"Which digit? (It is {n}.)", answer=str(n)) for n in range(8)]
    assert "contain their answer" in found(data.unfit_tasks, leaking)


def test_a_reward_that_sees_nothing(found, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def flat(task, episode):\n    return 0.5\n")
    assert "it pays every episode alike" in found(rewards.blind_rewards, [f"{path}:flat"], None)
    assert "pays all sample episodes 0.5" in found(rewards.blind_rewards, ["accuracy", f"{path}:flat"], None)


def test_an_image_that_is_missing(tmp_path):
    (tmp_path / "tasks.jsonl").write_text(json.dumps({"question": "q", "answer": "1", "images": ["gone.png"]}) + "\n")
    with pytest.raises(ValueError, match=r"row 0 .*gone\.png does not exist"):
        load_tasks(tmp_path / "tasks.jsonl")


def test_an_image_that_is_broken(found, make_task, tmp_path):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    broken = Task("b", (str(tmp_path / "cut.png"),), "Which?", "1")
    assert "images of 1 tasks cannot be opened" in found(data.unfit_tasks, [broken])


def test_weights_that_are_not_numbers(found, tiny, tmp_path):
    with torch.no_grad():
        next(tiny.network.parameters())[0] = torch.nan
    tiny.network.save_pretrained(tmp_path)
    tiny.processor.save_pretrained(tmp_path)
    limits = SimpleNamespace(min_pixels=None, max_pixels=None)
    problem = found(lambda note: read_model(note, str(tmp_path), limits, load_weights=True))
    assert "hold NaN or infinity" in problem and "use another checkpoint" in problem


@pytest.mark.parametrize(
    ("use_peft", "gib", "cure"),
    [(False, 24, "--use_peft true"), (True, 24, "--gradient_checkpointing true"), (True, 10000, "")],
)
def test_a_model_too_large(found, use_peft, gib, cure):
    model = random_model("qwen3_vl-4b", device="meta", dtype=torch.bfloat16)
    args = GRPOArguments(
        output_dir="unused", use_cpu=True, bf16=False, gradient_checkpointing=False, rollout_batch_size=8,
        per_device_train_batch_size=2, num_generations=2,
    )  # fmt: skip
    limits = Limits(max_completion_tokens=4096)
    subject = Subject(model, False, [], tools_of, None, limits, Frame.PER_MILLE)
    launch = Launch(ModelConfig(use_peft=use_peft, dtype="bfloat16"), args, Sharding(), gib)
    problem = found(exceeded_grpo_memory, subject, 2000, launch)
    assert cure in problem and bool(cure) == bool(problem)


@pytest.mark.parametrize(
    ("options", "stage", "gib"),
    [
        ({}, 0, 9 * (1 + 3 * 3)),  # a checkpoint has weights and both moments of Adam; two are kept, and one is written
        ({"save_total_limit": None}, 0, 9 * (1 + 5 * 3)),
        ({"save_strategy": "no"}, 0, 9),
        ({"save_only_model": True}, 0, 9 * (1 + 3)),
        ({}, 2, 9 * (1 + 3 * 2) + 3 * 12 * 9 / 2),
        ({"use_peft": True}, 0, 0.123 * (1 + 3 * 3)),
        ({"max_steps": 10}, 0, 9 * (1 + 3)),
    ],
    ids=str,
)
def test_checkpoints_that_no_disk_holds(found, monkeypatch, tmp_path, options, stage, gib):
    model = random_model("qwen3_vl-4b", device="meta", dtype=torch.bfloat16)
    model_args = ModelConfig(use_peft=options.pop("use_peft", False), dtype="bfloat16")
    settings = {"max_steps": 100, "save_steps": 20, "save_total_limit": 2} | options
    args = GRPOArguments(
        output_dir=str(tmp_path / "a" / "b"), use_cpu=True, bf16=False, gradient_checkpointing=False, num_generations=2,
        per_device_train_batch_size=2, **settings,
    )  # fmt: skip
    launch = Launch(model_args, args, Sharding(8, stage), None, VisionArguments(train_vision=True))
    for share, is_room in ((0.8, False), (1.2, True)):
        free = int(share * gib * 2**30)
        monkeypatch.setattr("shutil.disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        problem = found(full_disk, model.network, launch.num_steps(1000), launch)
        assert bool(problem) != is_room
        assert is_room or "another --output_dir" in problem


class Text:
    """An environment without images, which shows text alone."""

    def reset(self, *, question, **row):
        return question


class Pair:
    """An environment that needs two images."""

    def reset(self, *, images, **row):
        return [{"type": "image", "image": images[1]}]


@pytest.mark.parametrize(("kind", "outcome"), [(Text, ""), (Pair, "raised IndexError")])
def test_an_environment_of_another_kind_is_no_mistake(found, subject, kind, outcome):
    own = replace(subject, make_environment=kind, tasks=[])
    assert found(environment.misread_boxes, own) == ""
    assert outcome in found(environment.resized_images, own)


def test_a_padded_crop_is_no_mistake(found, tiny, subject, episode_arguments):
    episode_arguments.crop_padding = 1.5
    assert found(environment.misread_boxes, Subject.of((tiny, True), subject.tasks, episode_arguments)) == ""


def test_a_family_that_grpo_does_not_train():
    from rl.checks import check_family

    with pytest.raises(ValueError, match="do SFT and evaluation"):
        check_family(SimpleNamespace(model_input_names=["pixel_values"]))


def test_crops_of_traces_in_another_size_than_rollouts_show_them(found, tiny, tmp_path, picture):
    """Traces written with the tiny model's crops, for a training that shows larger ones."""
    from environments.trace_files import read_traces

    view, crop = picture.resize((128, 96)), picture.crop((0, 0, 320, 240)).resize((64, 64))
    for name, image in (("a", view), ("b", crop)):
        image.save(tmp_path / f"{name}.png")
    line = json.dumps(trace_record([0, 0, 500, 500], (tmp_path / "a.png", tmp_path / "b.png")))
    (tmp_path / "traces.jsonl").write_text(line)
    records = list(read_traces(tmp_path))
    same = Subject.of((tiny, True), [], EpisodeArguments(crop_min_pixels=4096, crop_max_pixels=5120))
    other = Subject.of((tiny, True), [], EpisodeArguments(crop_min_pixels=8192, crop_max_pixels=12288))
    assert found(traces.crops_of_another_size, same, records) == ""
    assert "1 of 1 crops are not as rollouts show them (8192 to 12288 pixels), the first has 64x64" in found(
        traces.crops_of_another_size, other, records
    )


def test_options_that_would_have_no_effect(found, tiny):
    for options, script, message in (
        ({"repetition_penalty": 1.1}, {}, "repetition_penalty 1.1 has no effect on episodes"),
        ({}, {"train_vision": True}, "have no effect beside an adapter"),
    ):
        args = GRPOArguments(output_dir="out", bf16=False, use_cpu=True, **options)
        parsed = (args, EpisodeArguments(), GRPOScriptArguments(**script), ModelConfig(use_peft=True))
        assert message in found(grpo.options_without_effect, *parsed)


def test_a_reward_that_fails_on_real_tasks_alone(found, subject):
    """On the sample task it works."""
    from rewards.registry import Reward, RewardKind

    def difficulty(prompts, completions, difficulty, **columns):
        return [float(value) for value in difficulty]

    said = found(rewards.failing_rewards, subject, [Reward("difficulty", RewardKind.TRL, difficulty)])
    assert "reward difficulty asks for difficulty, a column that no row has" in said


def test_a_reward_that_fails_where_there_is_no_answer(found, subject):
    from rewards.registry import Reward, RewardKind

    reward = Reward("brief", RewardKind.EPISODE, lambda task, episode: 1.0 / len(episode.answer))
    assert "reward brief raised TypeError" in found(rewards.failing_rewards, subject, [reward])


@pytest.mark.parametrize(
    ("layers", "use_vllm", "outcome"),
    [
        ("7-9", False, "the model's are 0 to 1"),
        ("x", False, "write numbers"),
        ("1", True, "vLLM cannot"),
        ("1", False, ""),
    ],
)
def test_layers_that_cannot_be_masked(found, layers, use_vllm, outcome):
    model = random_model("qwen3_vl-narrow")
    told = found(lambda note: mask_of_images(note, model, layers, use_vllm=use_vllm))
    assert outcome in told and bool(outcome) == bool(told)


@pytest.mark.parametrize("limits", [PixelLimits(4096, 5120, 16), PixelLimits(65536, 262144, 32)], ids=str)
def test_every_size_of_crop_that_an_environment_makes_may_be(limits):
    """Thin ones too, for which the rule of rounding leaves the range; sizes far off are told."""
    rng = np.random.default_rng(0)
    for width, height in rng.integers(1, 3000, size=(500, 2)).tolist():
        if max(width, height) < 100 * min(width, height):
            assert traces.may_be_within(limits.fit_size((width, height)), limits), (width, height)
    side = int(limits.max_pixels**0.5)
    assert not traces.may_be_within((2 * side, 2 * side), limits)
    assert not traces.may_be_within((int(limits.min_pixels**0.5) // 2,) * 2, limits)
