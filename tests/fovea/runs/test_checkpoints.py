"""Checkpoints that are whole or do not count."""

from types import SimpleNamespace

import pytest

from fovea.runs.checkpoints import (
    LAST_FILE,
    MARK,
    WholeCheckpoints,
    discount_checkpoints,
    is_finished,
    kept_checkpoints,
    last_whole_checkpoint,
    step_of,
)


def test_a_half_written_checkpoint_does_not_count(tmp_path):
    for name, is_whole in (("checkpoint-9", True), ("checkpoint-10", True), ("checkpoint-12", False)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "trainer_state.json").touch()
        if is_whole:
            (tmp_path / name / "whole").touch()
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-10"
    assert last_whole_checkpoint(tmp_path / "nothing") is None


def test_a_fresh_start_counts_neither_old_checkpoints_nor_the_old_model(tmp_path):
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "checkpoint-4" / MARK).touch()
    (tmp_path / LAST_FILE).touch()
    assert is_finished(tmp_path)
    discount_checkpoints(tmp_path)
    assert last_whole_checkpoint(tmp_path) is None and not is_finished(tmp_path)
    assert (tmp_path / "checkpoint-4").exists(), "what it holds stays"
    assert step_of(tmp_path / "checkpoint-4") == 4


class Saver:
    """The part of a Trainer that writes a checkpoint."""

    def _save(self, output_dir=None, state_dict=None):
        pass

    def _save_checkpoint(self, model, trial):
        folder = self.folder / f"checkpoint-{self.state.global_step}"
        folder.mkdir()
        self.limits.append(self.args.save_total_limit)
        if model == "dies":
            raise OSError("the disk is full")


class Whole(WholeCheckpoints, Saver):
    def __init__(self, folder, *, limit):
        self.folder, self.limits = folder, []
        self.args = SimpleNamespace(output_dir=str(folder), save_total_limit=limit, should_save=True)
        self.state = SimpleNamespace(global_step=0, best_model_checkpoint=None)
        self.accelerator = SimpleNamespace(wait_for_everyone=lambda: None)

    def save(self, step, model="model"):
        self.state.global_step = step
        self._save_checkpoint(model, None)


def test_older_checkpoints_go_only_once_the_new_one_is_whole(tmp_path):
    trainer = Whole(tmp_path, limit=1)
    trainer.save(1)
    trainer.save(2)
    assert trainer.limits == [None, None], "the Trainer itself rotates nothing"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-2"]
    with pytest.raises(OSError, match="the disk is full"):
        trainer.save(3, model="dies")
    assert last_whole_checkpoint(tmp_path).name == "checkpoint-2" and trainer.args.save_total_limit == 1


def test_checkpoints_of_the_run_before_are_not_kept_ones(tmp_path):
    for step in (4, 10, 14):
        (tmp_path / f"checkpoint-{step}").mkdir()
    assert list(map(step_of, kept_checkpoints(tmp_path))) == [4, 10, 14], "of a trainer that leaves no marks"
    for step in (4, 10):
        (tmp_path / f"checkpoint-{step}" / MARK).touch()
    assert list(map(step_of, kept_checkpoints(tmp_path))) == [4, 10]


def test_nothing_of_an_earlier_run_is_left_in_a_checkpoint_or_beside_a_model(tmp_path):
    """An adapter in the folder of a whole model would be loaded in its place, and old rollouts trained on."""
    trainer = Whole(tmp_path, limit=None)
    for name in ("adapter_config.json", "rollouts_0.pt", "task_history.json", MARK):
        (tmp_path / "checkpoint-5").mkdir(exist_ok=True)
        (tmp_path / "checkpoint-5" / name).touch()
    trainer.save(5)
    assert [path.name for path in (tmp_path / "checkpoint-5").iterdir()] == [MARK]
    kept = {"run.json", "adapter.md"}
    for name in {"adapter_config.json", "adapter_model.safetensors", "model-00001-of-2.safetensors", *kept}:
        (tmp_path / name).touch()
    trainer._save()
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == kept


def test_a_process_that_writes_nothing_takes_nothing_away(tmp_path):
    """Under DeepSpeed each process saves; the others would delete what the first has just written."""
    trainer = Whole(tmp_path, limit=None)
    trainer.args.should_save = False
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "checkpoint-5").mkdir()
    trainer._save()
    assert (tmp_path / "model.safetensors").exists()


def test_a_run_that_goes_back_leaves_the_branch_behind_uncounted(tmp_path):
    for step in (40, 60, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / MARK).touch()
    discount_checkpoints(tmp_path, behind=60)
    assert list(map(step_of, kept_checkpoints(tmp_path))) == [40, 60]
