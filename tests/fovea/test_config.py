import inspect
import sys
from dataclasses import dataclass, field

import pytest

from fovea.cli import COMMANDS
from fovea.config import CONFIGS, ConfigError, parse, read_config, value_of
from fovea.plugins import load_object


@dataclass
class Options:
    learning_rate: float = 0.1
    reward_funcs: list[str] = field(default_factory=list)


def test_the_command_line_wins_over_the_file(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("learning_rate: 0.5\nreward_funcs: [a, b]\n")
    for config in (["--config", str(path)], [f"--config={path}"]):
        (options,) = parse([Options], arguments=[*config, "--learning_rate", "0.7"])
        assert options == Options(0.7, ["a", "b"])


def test_later_files_win_over_earlier_ones(tmp_path):
    for name, text in (("a", "learning_rate: 0.5\nreward_funcs: [a]\n"), ("b", "learning_rate: 0.6\n")):
        (tmp_path / f"{name}.yaml").write_text(text)
    words = ["--config", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"), "--reward_funcs", "c"]
    (options,) = parse([Options], arguments=words)
    assert options == Options(0.6, ["c"])


@pytest.mark.parametrize("place", ["file", "command line"])
def test_an_unknown_key_is_refused_with_the_nearest_name(tmp_path, place):
    path = tmp_path / "c.yaml"
    path.write_text("learning_rat: 0.5\n" if place == "file" else "learning_rate: 0.5\n")
    words = ["--config", str(path)] + ([] if place == "file" else ["--learning_rat", "1"])
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        parse([Options], arguments=words)


def test_a_missing_config_lists_those_shipped():
    with pytest.raises(ConfigError, match=r"tiny_grpo\.yaml"):
        parse([Options], arguments=["--config", "no_such.yaml"])


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*_grpo.yaml")), ids=lambda path: path.name)
def test_every_grpo_recipe_parses(path):
    from trl import ModelConfig

    from environments.arguments import EpisodeArguments
    from rl.arguments import GRPOArguments, GRPOScriptArguments

    kinds = [GRPOScriptArguments, EpisodeArguments, ModelConfig, GRPOArguments]
    script, *_ = parse(kinds, arguments=["--config", str(path), "--bf16", "false"])
    assert script.reward_funcs


OVERLAYS = [
    str(path.relative_to(CONFIGS)) for kind in ("hardware", "rewards") for path in (CONFIGS / kind).glob("*.yaml")
]


@pytest.mark.parametrize("overlay", sorted(OVERLAYS))
def test_every_hardware_and_reward_file_fits_every_large_recipe(overlay):
    from trl import ModelConfig

    from environments.arguments import EpisodeArguments
    from rl.arguments import GRPOArguments, GRPOScriptArguments
    from rl.checks import check_groups

    kinds = [GRPOScriptArguments, EpisodeArguments, ModelConfig, GRPOArguments]
    for recipe in ("qwen2_5_vl_7b_grpo.yaml", "qwen3_vl_8b_grpo.yaml"):
        script, *_, training = parse(kinds, arguments=["--config", recipe, overlay, "--bf16", "false"])
        check_groups(training)
        assert len(script.reward_funcs) == len(training.reward_weights)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*_sft.yaml")), ids=lambda path: path.name)
def test_every_sft_recipe_parses(path):
    from trl import ModelConfig, SFTConfig

    from environments.arguments import EpisodeArguments
    from sft.arguments import SFTScriptArguments

    kinds = [SFTScriptArguments, EpisodeArguments, ModelConfig, SFTConfig]
    _, _, model, _ = parse(kinds, arguments=["--config", str(path), "--bf16", "false"])
    assert model.model_name_or_path


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_says_what_it_does(command, monkeypatch, capsys):
    function = load_object(COMMANDS[command][0])
    monkeypatch.setattr(sys, "argv", [f"fovea {command}", "--help"])
    with pytest.raises(SystemExit) as exit_:
        function()
    first = (inspect.getmodule(function).__doc__ or "").splitlines()[0]
    assert not exit_.value.code and first in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("text", "message"), [(b"a: [1\n", "is no YAML"), (b"- 1\n", "key: value"), (b"a: \xff\n", "is no YAML")]
)
def test_a_file_that_is_no_yaml_is_named_by_all_who_read_it(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_bytes(text)
    words = ["--config", str(tmp_path / "bad.yaml")]
    by_all = (
        lambda: read_config(words[1]),
        lambda: value_of("seed", words),
        lambda: parse((Options,), arguments=words),
    )
    for read in by_all:
        with pytest.raises(ConfigError, match=f"bad.yaml .*{message}"):
            read()


@pytest.mark.parametrize("command", ["sft", "grpo"])
def test_help_shows_our_options_before_those_of_trl(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit):
        load_object(COMMANDS[command][0])()
    text = capsys.readouterr().out
    ours, theirs = text.split("options of TRL and Transformers:")
    for name in ("dataset_name", "environment", "crop_padding"):
        assert f"  --{name} " in ours and f"  --{name} " not in theirs
    for name in ("weight_decay", "lora_r"):
        assert f"  --{name} " in theirs and f"  --{name} " not in ours
    assert len(ours.splitlines()) < 250
