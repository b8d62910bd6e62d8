"""The folder of a training tells the settings that its checkpoint was taught."""

from environments.arguments import EpisodeArguments
from environments.taught import checkpoint_defaults, taught_settings, untaught
from fovea.arguments import PlayerArguments
from fovea.runs.directory import RunDirectory


def test_a_checkpoint_tells_what_it_was_trained_with(tmp_path):
    trained = EpisodeArguments(crop_max_pixels=5120, crops="noise")
    RunDirectory(tmp_path).write_start(episodes=trained, script={"max_pixels": 9000, "dataset_name": "x"})
    for folder in (tmp_path, tmp_path / "checkpoint-3"):
        found = taught_settings(str(folder))
        assert (found["crop_max_pixels"], found["max_pixels"], found["crop_padding"]) == (5120, 9000, 1.0)
        assert "crops" not in found and "dataset_name" not in found
    assert taught_settings("tiny") == {}


def test_a_command_goes_by_the_limits_of_the_checkpoint_that_it_names(tmp_path):
    RunDirectory(tmp_path).write_start(episodes=EpisodeArguments(max_turns=3, max_episode_tokens=700))
    words = ["fovea eval", str(tmp_path), "--max_tasks", "8"]
    found = checkpoint_defaults(words)
    assert (found["max_turns"], found["max_episode_tokens"]) == (3, 700)
    assert words[1:3] == ["--model_name_or_path", str(tmp_path)]
    assert not untaught(str(tmp_path), EpisodeArguments(max_turns=9, max_episode_tokens=700))


def test_settings_that_a_checkpoint_has_not_learned_from_are_named(tmp_path):
    RunDirectory(tmp_path).write_start(episodes=EpisodeArguments(crop_max_pixels=5120), script={"max_pixels": 9000})
    said = untaught(str(tmp_path), EpisodeArguments(crop_max_pixels=4096), PlayerArguments(max_pixels=9000))
    assert "crop_max_pixels was 5120, is 4096" in said and "max_pixels was 9000" not in said
    assert not untaught(str(tmp_path), EpisodeArguments(crop_max_pixels=5120), PlayerArguments(max_pixels=9000))


def test_a_checkpoint_is_found_however_it_is_named(tmp_path):
    RunDirectory(tmp_path).write_start(episodes=EpisodeArguments(max_turns=3))
    (tmp_path / "mine.yaml").write_text(f"model_name_or_path: {tmp_path}\n")
    for words in (
        [str(tmp_path)], ["--model_name_or_path", str(tmp_path)], [f"--model_name_or_path={tmp_path}"],
        ["--seed", "1", "--config", str(tmp_path / "mine.yaml")], [f"--config={tmp_path / 'mine.yaml'}"],
    ):  # fmt: skip
        assert checkpoint_defaults(["fovea eval", *words]).get("max_turns") == 3, words
    assert checkpoint_defaults(["fovea eval", "--seed", "1"]) == {}
    odd = tmp_path / "lr=1e-5"
    RunDirectory(odd).write_start(episodes=EpisodeArguments(max_turns=3))
    assert checkpoint_defaults(["fovea eval", str(odd)]).get("max_turns") == 3


def test_a_setting_that_was_left_open_is_a_setting_too(tmp_path):
    RunDirectory(tmp_path).write_start(episodes=EpisodeArguments(), script={"max_pixels": None})
    said = untaught(str(tmp_path), EpisodeArguments(crop_min_pixels=262144), PlayerArguments(max_pixels=9000))
    assert "crop_min_pixels was None, is 262144" in said and "max_pixels" not in said.replace("crop_max_pixels", "")
