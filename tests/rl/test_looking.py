"""Measures of a training against blindness: the information gap, probes at evaluation, pictures for trackers."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from environments.factories import environment_factory
from environments.probes.gap import Gap
from environments.seats import Reply
from fovea.jsonl import read_jsonl
from fovea.runs.directory import RunDirectory
from fovea.runs.records import Rollout
from rewards.registry import load_reward
from rl.arguments import GRPOArguments
from rl.probes import ProbeCallback
from rl.trackers import TrajectoryCallback
from rl.trainer import ZoomGRPOTrainer
from synthesis.shapes import make_tasks
from tests.training import ON_CPU


@pytest.fixture
def build(tiny, episode_arguments, tmp_path):
    def make(*, eval_tasks=(), probes=None, **options):
        torch.manual_seed(0)
        settings = ON_CPU | dict(
            output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=2, max_steps=1, learning_rate=1e-3,
            per_device_eval_batch_size=4, logging_steps=1,
        )  # fmt: skip
        trainer = ZoomGRPOTrainer(
            tiny.network,
            [load_reward("format")],
            GRPOArguments(**(settings | options)),
            train_tasks=make_tasks(num_tasks=2, seed=31, families={"direct": 1.0}),
            eval_tasks=eval_tasks,
            environment_factory=environment_factory(episode_arguments, tiny),
            limits=episode_arguments.limits(),
            processing_class=tiny.processor,
            run=RunDirectory(tmp_path),
        )
        if probes:
            trainer.add_callback(ProbeCallback(trainer, probes))
        return trainer

    return make


def test_a_training_with_the_gap_shows_smaller_views_of_what_it_knows(build, monkeypatch):
    trainer = build(information_gap=True)
    full = [task.first_view_max_pixels for task in trainer.tasks]
    smallest = [replace(task, first_view_max_pixels=task.first_view_max_pixels // 16) for task in trainer.tasks]
    found = {task.id: Gap(task, 0.0625, is_known=True) for task in smallest}
    monkeypatch.setattr("rl.playing.narrow", lambda policy, tasks, **_: [found[task.id] for task in tasks])
    trainer.train()
    logged = trainer.state.log_history[0]
    assert logged["gap/known_at_sight"] == 1.0 and logged["gap/view"] == 0.0625
    shown = {episode.record.images[0].size for episode, _ in trainer.last_played}
    assert all(width * height <= max(full) / 10 for width, height in shown)
    assert {episode.task.images for episode, _ in trainer.last_played} <= {task.images for task in trainer.tasks}


class LooksAtCrops:
    """Zooms once, and answers rightly unless the crop is noise."""

    def __init__(self, renderer):
        self.renderer = renderer

    def reply(self, conversations, *, max_tokens):
        return [self._reply(conversation) for conversation in conversations]

    def _reply(self, conversation):
        text = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [100, 100, 400, 400]}}</tool_call>'
        if len(conversation.messages) > 2:
            levels = np.asarray(conversation.images[-1], dtype=float)
            is_noise = np.abs(np.diff(levels, axis=0)).mean() > 40
            text = f"<answer>{'?' if is_noise else conversation.task.answer}</answer>"
        tokenizer = self.renderer.tokenizer
        return Reply(text, (*tokenizer(text).input_ids, tokenizer.eos_token_id))


def test_evaluation_plays_the_tasks_again_with_other_crops(build, tiny, episode_arguments):
    tasks = make_tasks(num_tasks=4, seed=9, families={"read": 1.0})
    noise = environment_factory(replace(episode_arguments, crops="noise"), tiny)
    trainer = build(eval_tasks=tasks, probes={"noise": noise})
    trainer.policy = lambda mode: nullcontext(LooksAtCrops(trainer.renderer))
    metrics = trainer.evaluate()
    assert (metrics["eval_probe/true"], metrics["eval_probe/noise"]) == (1.0, 0.0)
    assert metrics["eval_crop_dependence"] == trainer.state.log_history[-1]["eval_crop_dependence"] == 1.0


def test_evaluation_on_edited_pictures_says_whether_answers_follow(build):
    """Of four edited pictures two are read, one is answered as before the edit, one otherwise."""
    tasks = [
        replace(task, metadata={**task.metadata, "edit": {"of": "a", "kind": "digits", "was": "3"}}, answer="7")
        for task in make_tasks(num_tasks=4, seed=9, families={"read": 1.0})
    ]
    tasks[1] = replace(tasks[1], metadata={"edit": {"of": "a", "kind": "digits", "was": "7"}}, answer="5")
    tasks[2] = replace(tasks[2], metadata={"edit": {"of": "a", "kind": "digits", "was": "3"}}, answer="5")
    others = [replace(task, metadata={}) for task in tasks[:2]]
    trainer = build(eval_tasks=[*tasks, *others])
    trainer.policy = lambda mode: nullcontext(Says(trainer.renderer, "7"))
    metrics = trainer.evaluate()
    assert [metrics[f"eval_edits/{one}"] for one in ("follows", "stays", "other")] == [0.5, 0.25, 0.25]
    assert not any("edits" in name for name in build(eval_tasks=others).evaluate())


class Says:
    """Answers all the same at once."""

    def __init__(self, renderer, answer):
        self.tokenizer, self.text = renderer.tokenizer, f"<answer>{answer}</answer>"

    def reply(self, conversations, *, max_tokens):
        ids = (*self.tokenizer(self.text).input_ids, self.tokenizer.eos_token_id)
        return [Reply(self.text, ids)] * len(conversations)


def test_stored_rollouts_say_what_they_were_paid(build, tmp_path):
    trainer = build()
    trainer.train()
    rows = read_jsonl(tmp_path / "episodes.jsonl")
    assert len(rows) == 4 and {"rewards", "advantage", "in_loss"} <= rows[0].keys()
    assert {row["step"] for row in rows} == {trainer.state.log_history[0]["step"]} == {1}
    for start in (0, 2):
        assert sum(row["advantage"] for row in rows[start : start + 2]) == pytest.approx(0, abs=1e-3)
    assert {row["rewards"]["format"] for row in rows} <= {0.0, 1.0}


def test_trajectories_reach_tensorboard_as_images(build, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = build(report_to=["tensorboard"], max_steps=2)
    trainer.add_callback(TrajectoryCallback(trainer, number=2, every=20))
    trainer.train()
    [events] = {path.parent for path in tmp_path.rglob("events.out.tfevents*")}
    found = EventAccumulator(str(events)).Reload()
    assert found.Tags()["images"] == ["trajectories/0", "trajectories/1"]
    assert "train/zooms/rate" in found.Tags()["scalars"]


def test_trajectories_reach_trackio_as_images(build, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    import trackio

    sent = []
    monkeypatch.setattr(trackio, "log", lambda row, **_: sent.append(row))
    trainer = build()
    trainer.add_callback(TrajectoryCallback(trainer, number=2, every=20))
    trainer.args.report_to = ["trackio"]
    trainer.train()
    [row] = [row for row in sent if "trajectories/0" in row]
    assert isinstance(row["trajectories/1"], trackio.Image) and row["train/global_step"] == 1


def test_trajectories_are_sent_at_the_steps_that_were_promised(monkeypatch):
    """At the first log, then at the first log after each so many steps, whatever logging_steps is."""
    sent = []
    monkeypatch.setattr("rl.trackers.SENDERS", {"tensorboard": lambda trainer, pictures, step: sent.append(step)})
    monkeypatch.setattr("rl.trackers.draw", lambda episode, title: None)
    for every_log, every, expected in (
        (1, 20, [1, 20, 40]),
        (10, 20, [10, 20, 40]),
        (7, 20, [7, 21, 42]),
        (1, 1, [1, 2]),
    ):
        trainer = SimpleNamespace(last_played=[(None, Rollout(task_id="t", step=0))])
        callback = TrajectoryCallback(trainer, number=1, every=every)
        for step in range(every_log, 3 if every == 1 else 50, every_log):
            state = SimpleNamespace(is_world_process_zero=True, global_step=step)
            callback.on_log(SimpleNamespace(report_to=["tensorboard"]), state, None)
        assert sent == expected
        sent.clear()
