"""`--environment none`: TRL's own GRPO on prompts, through the same script."""

import json
import sys

import pytest
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from fovea.config import ConfigError
from fovea.models.processors import load_processor
from rl import train_grpo

REWARD = "def brief(completions, **columns):\n    return [-float(len(str(c))) for c in completions]\n"


@pytest.fixture
def words(tmp_path):
    backend = load_processor("tiny").tokenizer.backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rows = [{"prompt": f"What is {number} and {number}?"} for number in range(8)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "mine.py").write_text(REWARD)
    settings = {
        "environment": "none", "model_name_or_path": str(tmp_path / "model"),
        "reward_funcs": f"{tmp_path}/mine.py:brief",
        "dataset_name": str(tmp_path / "prompts.jsonl"), "output_dir": str(tmp_path / "run"), "max_steps": "1",
        "num_generations": "2", "per_device_train_batch_size": "4", "max_completion_length": "8", "use_cpu": "true",
        "bf16": "false", "report_to": "none", "logging_steps": "1", "gradient_checkpointing": "false",
        "save_strategy": "no",
    }  # fmt: skip
    (tmp_path / "own.yaml").write_text("save_steps: 500\n")
    options = [word for name, value in settings.items() for word in (f"--{name}", value)]
    return ["train_grpo.py", "--config", str(tmp_path / "own.yaml"), *options]


def test_prompts_train_without_images_and_tools(words, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", words)
    train_grpo.main()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["rewards/brief/mean"] < 0
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_reward_that_reads_episodes_is_refused(words, monkeypatch):
    monkeypatch.setattr(sys, "argv", [*words, "--reward_funcs", "accuracy"])
    with pytest.raises(ConfigError, match="accuracy reads episodes"):
        train_grpo.main()


@pytest.mark.parametrize("environment", ["none", "zoom"])
@pytest.mark.parametrize(
    ("option", "value", "told"), [("--use_vllm", "true", "vLLM is not installed"), ("--loss_type", "x", "use one of")]
)
def test_what_only_the_first_step_would_find_is_refused_at_once(words, monkeypatch, environment, option, value, told):
    monkeypatch.setattr("rl.checks.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", [*words, "--environment", environment, option, value])
    with pytest.raises(ConfigError, match=told):
        train_grpo.main()


def test_data_without_prompts_is_refused(words, tmp_path, monkeypatch):
    (tmp_path / "prompts.jsonl").write_text('{"question": "?"}\n')
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(ConfigError, match="no column 'prompt'"):
        train_grpo.main()


def test_what_is_wrong_with_an_environment_leaves_the_folder_as_it_was(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    words = ["--output_dir", str(tmp_path), "--model_name_or_path", "tiny", "--crop_max_pixels", "999999999",
             "--max_tasks", "8", "--use_cpu", "true", "--per_device_train_batch_size", "16"]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["train_grpo.py", *words])
    with pytest.raises(ValueError, match="would be resized once more"):
        train_grpo.main()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
