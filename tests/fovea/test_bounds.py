"""Numbers that make no sense are refused by name, wherever they are set, before anything is loaded."""

import dataclasses

import pytest

from doctor.settings import DoctorArguments
from environments.arguments import EpisodeArguments
from evaluation.arguments import EvaluationArguments
from fovea.bounds import ABOVE_0, FROM_0, FROM_1
from fovea.config import CONFIGS, ConfigError, parse
from rl.arguments import ARGUMENTS as GRPO
from sft.arguments import ARGUMENTS as SFT
from synthesis.agent.casting import RoleArguments
from synthesis.agent.command import AgentArguments
from synthesis.chains.arguments import ChainArguments
from synthesis.mimic.arguments import ItemArguments
from synthesis.oracle_traces import TraceArguments

EVAL, TRACES = (EvaluationArguments, EpisodeArguments), (TraceArguments, EpisodeArguments)


@pytest.mark.parametrize(
    ("kinds", "words", "message"),
    [
        (GRPO, ["--reward_weights", "-0.5", "nan"], "reward_weights is nan: give a finite number"),
        (GRPO, ["--reward_weights", "inf", "1"], "reward_weights is inf: give a finite number"),
        (GRPO, ["--num_train_epochs", "-1"], "num_train_epochs is -1.0: give a number above 0"),
        (GRPO, ["--max_steps", "-3"], "max_steps is -3: give 1 or more, or -1"),
        (GRPO, ["--num_generations", "0"], "num_generations is 0: give 1 or more"),
        (GRPO, ["--per_device_train_batch_size", "0"], "per_device_train_batch_size is 0: give 1 or more"),
        (GRPO, ["--learning_rate", "nan"], "learning_rate is nan"),
        (GRPO, ["--temperature", "-1"], "temperature is -1.0: give 0 or more"),
        (GRPO, ["--max_tokens_per_turn", "-4"], "max_tokens_per_turn is -4: give 1 or more"),
        (GRPO, ["--max_tasks", "-2"], "max_tasks is -2: give 1 or more"),
        (SFT, ["--num_train_epochs", "-1"], "num_train_epochs is -1.0"),
        (SFT, ["--max_length", "0"], "max_length is 0"),
        (EVAL, ["--max_turns", "0"], "max_turns is 0: give 1 or more"),
        (EVAL, ["--max_minutes", "-1"], "max_minutes is -1.0: give a number above 0"),
        (EVAL, ["--batch_size", "0"], "batch_size is 0"),
        (EVAL, ["--max_episode_tokens", "-5"], "max_episode_tokens is -5"),
        (EVAL, ["--temperature", "-1"], "temperature is -1.0: give 0 or more"),
        (EVAL, ["--max_pixels", "-1"], "max_pixels is -1: give 1 or more"),
        (EVAL, ["--view_sizes_px", "64", "0"], "view_sizes_px is 0"),
        (TRACES, ["--noise", "-1"], "noise is -1.0: give 0 or more"),
        (TRACES, ["--looseness", "-1", "2"], "looseness is -1.0: give a number above 0"),
        (TRACES, ["--num_traces", "-5"], "num_traces is -5: give 1 or more"),
    ],
    ids=str,
)
def test_a_number_that_makes_no_sense_is_refused(kinds, words, message):
    required = ["--output_dir", "out"] if kinds in (EVAL, TRACES) else []
    with pytest.raises(ConfigError, match=message):
        parse(kinds, arguments=[*required, *words])


def test_numbers_of_files_are_looked_at_too(tmp_path):
    (tmp_path / "a.yaml").write_text("num_generations: 0\nlearning_rate: -1.0e-6\n")
    with pytest.raises(
        ConfigError, match=r"num_generations is 0.*\n?.*learning_rate is -1e-06|learning_rate.*\n.*num_g"
    ):
        parse(GRPO, arguments=["--config", str(tmp_path / "a.yaml")])


def test_defaults_and_shipped_recipes_are_in_bounds():
    for name in sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*_grpo.yaml")):
        parse(GRPO, arguments=["--config", name, "--bf16", "false"])
    for name in sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*_sft.yaml")):
        parse(SFT, arguments=["--config", name, "--bf16", "false"])


def test_every_bounded_option_exists():
    kinds = {*GRPO, *SFT, *EVAL, *TRACES, AgentArguments, ChainArguments, DoctorArguments, ItemArguments, RoleArguments}
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert names >= ABOVE_0 | FROM_1 | FROM_0
