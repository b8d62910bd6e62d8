"""Adapters trained on adapters: what is loaded again is what was trained, in every command that loads it."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import fovea.training
from environments.rendering import Renderer
from fovea.models.loading import Model, load_model
from fovea.models.names import adapter_chain
from rl import train_grpo
from sft import train_sft

LORA = ("--use_peft", "true", "--learning_rate", "3e-3", "--use_cpu", "true", "--save_strategy", "no")
PROBE = Image.new("RGB", (128, 128), (200, 30, 40))


def logits_of(network) -> torch.Tensor:
    renderer = Renderer(load_model("tiny").processor)
    messages = [{"role": "user", "content": [{"type": "image", "image": PROBE}, {"type": "text", "text": "Which?"}]}]
    inputs = renderer.model_inputs([renderer.prompt_ids(messages, [])], [[PROBE]])
    with torch.no_grad():
        return network.eval()(**inputs).logits[0].float().log_softmax(-1)


@pytest.fixture
def trained(monkeypatch):
    """Runs an entry script's main and gives the log-probabilities of the model that it has trained."""
    found = []
    save = fovea.training.save_together

    def save_and_remember(trainer):
        save(trainer)
        found.append(logits_of(trainer.accelerator.unwrap_model(trainer.model)))

    monkeypatch.setattr(fovea.training, "save_together", save_and_remember)

    def run(main, *words):
        monkeypatch.setattr(sys, "argv", ["train", *map(str, words)])
        main()
        return found.pop()

    return run


def grpo(trained, start: Path, output: Path, *words) -> torch.Tensor:
    return trained(
        train_grpo.main, "--model_name_or_path", start, "--output_dir", output, "--max_steps", "1", "--max_tasks", "4",
        "--num_generations", "2", "--per_device_train_batch_size", "4", "--temperature", "1.5",
        "--reward_funcs", "zoom_cost", "--reward_weights", "1", "--max_tokens_per_turn", "8", *LORA, *words,
    )  # fmt: skip


def cold_start(trained, output: Path, *words) -> torch.Tensor:
    return trained(
        train_sft.main, "--output_dir", output, "--max_traces", "12", "--max_steps", "3", "--eval_strategy", "no",
        "--load_best_model_at_end", "false", *LORA, *words,
    )  # fmt: skip


def reloaded(folder: Path, expected: torch.Tensor) -> Model:
    model = load_model(str(folder))
    torch.testing.assert_close(logits_of(model.network), expected, atol=2e-4, rtol=1e-4)
    return model


def base_named_by(folder: Path) -> str:
    return json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]


def moved(model: Model, other: Model) -> float:
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    return float((model.network.get_parameter(name) - other.network.get_parameter(name)).norm())


@pytest.mark.slow
def test_an_adapter_like_its_start_goes_on_and_another_one_names_it_as_its_base(trained, tmp_path, monkeypatch):
    s, r, third, fourth = (tmp_path / name for name in ("S", "R", "third", "fourth"))
    after_s = cold_start(trained, s, "--lora_r", "8")
    after_r = grpo(trained, s, r, "--lora_r", "8", "--beta", "0.1")
    after_third = grpo(trained, r, third, "--lora_r", "4")
    after_fourth = cold_start(trained, fourth, "--model_name_or_path", third, "--lora_r", "2")
    assert base_named_by(r) == base_named_by(s), "it goes on with the same adapter"
    assert [Path(path).name for path in adapter_chain(str(fourth))[1]] == ["R", "third", "fourth"]
    monkeypatch.chdir("/")
    tiny = load_model("tiny")
    models = [tiny]
    for folder, expected in ((s, after_s), (r, after_r), (third, after_third), (fourth, after_fourth)):
        models.append(reloaded(folder, expected))
    assert moved(models[1], tiny) > 0.01
    assert moved(models[4], models[1]) > 0

    from fovea.models import merge

    monkeypatch.setattr(sys, "argv", ["fovea merge", str(fourth), "--output_dir", str(tmp_path / "whole")])
    merge.main()
    reloaded(tmp_path / "whole", after_fourth)

    shutil.rmtree(r)
    with pytest.raises(FileNotFoundError, match=f"the adapter {third} stands on {r}, which is not there"):
        load_model(str(fourth))


@pytest.mark.slow
def test_a_killed_training_on_an_adapter_goes_on_with_it(trained, tmp_path):
    s, straight, broken = (tmp_path / name for name in ("S", "straight", "broken"))
    cold_start(trained, s, "--lora_r", "8")
    steps = (
        "--lora_r",
        "8",
        "--beta",
        "0.1",
        "--save_strategy",
        "steps",
        "--save_steps",
        "1",
        "--lr_scheduler_type",
        "constant",
    )
    expected = grpo(trained, s, straight, *steps, "--max_steps", "2")
    grpo(trained, s, broken, *steps, "--max_steps", "1")
    found = grpo(trained, s, broken, *steps, "--max_steps", "2")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    reloaded(broken, found)
