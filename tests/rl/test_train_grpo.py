"""The entry script: the parts of a model that its options train."""

import sys

import pytest
import torch

from fovea.config import ConfigError
from fovea.models.loading import load_model
from rl import train_grpo

WORDS = (
    "--model_name_or_path", "tiny", "--cold_start_config", "", "--max_steps", "1", "--max_tasks", "2",
    "--num_generations", "2", "--per_device_train_batch_size", "4", "--temperature", "1.5",
    "--reward_weights", "1", "--max_tokens_per_turn", "4", "--warmup_steps", "0", "--use_cpu", "true",
    "--save_strategy", "no",
)  # fmt: skip


def trained(monkeypatch, folder, *words) -> set[str]:
    """Trains the base for one step and returns the parts of its tower whose weights have changed."""
    (folder / "mine.py").write_text(
        "def letters(task, episode):\n    return sum(map(ord, episode.turns[0].text)) % 7\n"
    )
    options = ("--output_dir", str(folder / "rl"), "--reward_funcs", f"{folder}/mine.py:letters")
    monkeypatch.setattr(sys, "argv", ["train_grpo.py", *WORDS, *options, *words])
    train_grpo.main()
    before, after = (dict(load_model(name).network.named_parameters()) for name in ("tiny", str(folder / "rl")))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any("language_model" in name for name in changed)
    return {"projector" if "merger" in name else "tower" for name in changed if "visual" in name}


@pytest.mark.parametrize(
    ("words", "parts"),
    [((), set()), (("--train_projector", "true"), {"projector"}), (("--train_vision", "true"), {"projector", "tower"})],
)
def test_the_vision_tower_is_trained_where_that_is_asked_for(monkeypatch, tmp_path, words, parts):
    assert trained(monkeypatch, tmp_path, *words) == parts


def test_a_reward_that_raises_ends_the_run_with_its_own_lines_and_a_cure(monkeypatch, tmp_path, capsys):
    (tmp_path / "mine.py").write_text("def letters(task, episode):\n    return task.metadata['colour']\n")
    options = ("--output_dir", str(tmp_path / "rl"), "--reward_funcs", f"{tmp_path}/mine.py:letters")
    monkeypatch.setattr(sys, "argv", ["train_grpo.py", *WORDS, *options])
    with pytest.raises(SystemExit, match=r"reward letters raised KeyError on task .*fovea rewards test"):
        train_grpo.main()
    told = capsys.readouterr().err.partition("Traceback")[2]
    assert "return task.metadata['colour']" in told and "trl/trainer" not in told


def test_a_tower_that_an_adapter_would_freeze_stops_the_run(monkeypatch, tmp_path):
    with pytest.raises((ConfigError, SystemExit), match="no effect beside an adapter"):
        trained(monkeypatch, tmp_path, "--train_vision", "true", "--use_peft", "true")
