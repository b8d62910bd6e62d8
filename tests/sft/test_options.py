"""Every option of SFTConfig takes effect on traces or stops the run by name."""

from dataclasses import fields

import pytest
from transformers import TrainingArguments
from trl import ModelConfig, SFTConfig

from fovea.config import ConfigError
from sft.arguments import HONOURED, REFUSED, REFUSED_WITH_SHARED_PREFIX, SFTScriptArguments, check_options
from tests.training import ON_CPU

OTHER_VALUES = {
    "chat_template_path": "a.jinja", "dataset_kwargs": {"a": 1}, "dataset_num_proc": 2, "dataset_text_field": "words",
    "eos_token": "</s>", "pad_token": "<pad>", "truncation_mode": "keep_end",
    "shuffle_dataset": True, "packing": True, "packing_strategy": "wrapped", "padding_free": True, "eval_packing": True,
    "completion_only_loss": True, "model_init_kwargs": {"dtype": "bfloat16"}, "neftune_noise_alpha": 5.0,
}  # fmt: skip


def test_every_field_is_known_and_a_new_one_is_asked_about():
    own = {field.name for field in fields(SFTConfig)} - {field.name for field in fields(TrainingArguments)}
    assert own == HONOURED | REFUSED.keys()
    assert OTHER_VALUES.keys() == REFUSED.keys() | REFUSED_WITH_SHARED_PREFIX.keys()


def test_the_defaults_are_accepted():
    check_options(SFTConfig(output_dir="out", **ON_CPU), SFTScriptArguments(), ModelConfig())


@pytest.mark.parametrize("name", sorted(OTHER_VALUES))
def test_an_option_without_effect_stops_the_run_with_the_cure(name):
    args = SFTConfig(output_dir="out", **ON_CPU)
    setattr(args, name, OTHER_VALUES[name])
    with pytest.raises(ConfigError, match=f"^{name} .* has no effect on traces: \\w+"):
        check_options(args, SFTScriptArguments(), ModelConfig())


@pytest.mark.parametrize("part", ["train_vision", "train_projector"])
def test_a_part_that_an_adapter_would_freeze_stops_the_run(part):
    args, script = SFTConfig(output_dir="out", **ON_CPU), SFTScriptArguments(**{part: True})
    check_options(args, script, ModelConfig())
    with pytest.raises(ConfigError, match="--lora_modules_to_save"):
        check_options(args, script, ModelConfig(use_peft=True))
