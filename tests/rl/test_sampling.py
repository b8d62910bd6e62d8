"""Groups whose rewards are all equal give their places to others, and tasks are drawn by how often they were right."""

import json
from dataclasses import replace
from statistics import fmean
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader

from fovea.jsonl import read_jsonl
from fovea.runs.directory import RunDirectory
from rewards.registry import Reward, RewardKind
from rl.arguments import GRPOArguments
from rl.checks import check_selection
from rl.sampling import LEAST, EpochCallback, EpochSampler, TaskHistory, has_signal
from synthesis.shapes import make_tasks
from tests.training import ON_CPU

NAN = float("nan")


@pytest.mark.parametrize(
    ("paid", "weights", "each", "expected"),
    [
        ([[1, 0], [1, 0]], [1, 1], False, False),
        ([[1, 0], [0, 0]], [1, 1], False, True),
        ([[1, 0], [0, 0]], [0, 1], False, False),  # what differs has no weight
        ([[1, 0], [0, 1]], [1, 1], False, False),  # the sums are equal
        ([[1, 0], [0, 1]], [1, 1], True, True),  # each is normalised by itself
        ([[1, 0], [0, 0]], [0, 1], True, False),
        ([[NAN, 1], [0, 1]], [1, 1], False, False),  # one that does not apply adds nothing
        ([[NAN, NAN], [1, NAN]], [1, 1], False, False),  # a rollout that nothing scores has no advantage
        ([[NAN, NAN], [NAN, NAN]], [1, 1], False, False),
        ([[NAN, NAN], [1, NAN], [0, NAN]], [1, 1], False, True),
    ],
)
def test_a_group_has_a_signal_where_advantages_differ(paid, weights, each, expected):
    assert has_signal(torch.tensor(paid, dtype=torch.float32), weights, each=each) is expected


def test_tasks_are_drawn_by_how_often_they_were_right():
    history = TaskHistory(6)
    history.note([(0, 1.0), (1, 0.0), (2, 0.5), (3, 1.0), (3, 0.0), (4, 0.9)])
    assert history.weights == pytest.approx([LEAST, LEAST, 0.5, 0.5, 0.3, 0.5])  # the last was not played yet
    drawn = [history.draw(2, np.random.default_rng(seed), without=[5]) for seed in range(400)]
    assert all(len(set(pair)) == 2 and 5 not in pair for pair in drawn)
    share = fmean(2 in pair for pair in drawn)
    assert share > 2 * fmean(0 in pair for pair in drawn) and share > fmean(4 in pair for pair in drawn)
    assert sorted(history.draw(9, np.random.default_rng(0), without=[0, 0, 1])) == [2, 3, 4, 5]
    assert history.draw(3, np.random.default_rng(0), without=range(6)) == []


def test_a_history_is_kept_to_the_last_digit():
    history, again = TaskHistory(3), TaskHistory(3)
    history.note([(0, 1 / 3), (0, 1 / 7), (2, 0.1)])
    again.load(json.loads(json.dumps(history.state())))
    assert np.array_equal(history.rates, again.rates, equal_nan=True)


class Paying:
    """Pays the rollouts of odd tasks by their place, those of even ones all the same; counts what it was asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, prompts, completions, task, log_extra, **columns):
        self.asked += [one.id for one in task]
        log_extra("number", [_number(one) for one in task])
        return [float(place % 2 and _number(one) % 2) for place, one in enumerate(task)]


def _number(task) -> int:
    return int(task.id.rpartition("-")[2])


def played(trainer):
    """Of every generation of a training: the tasks that it was to play, the groups kept, and the tasks left out."""
    seen, original = [], trainer.play_generation

    def play(numbers):
        groups = original(numbers)
        seen.append((numbers, groups, [group.task for group in trainer.left_out]))
        return groups

    trainer.play_generation = play
    trainer.train()
    return seen


@pytest.mark.parametrize("period", [{}, {"num_iterations": 2}, {"steps_per_generation": 2}], ids=str)
def test_groups_without_a_signal_give_their_places_away(build, tmp_path, period):
    paying = Paying()
    trainer = build(
        [Reward("paying", RewardKind.TRL, paying)], num_tasks=24, dynamic_sampling=8, per_device_train_batch_size=8,
        max_steps=2, **period,
    )  # fmt: skip
    trainer.run = RunDirectory(tmp_path)
    generations = played(trainer)
    records = read_jsonl(tmp_path / "episodes.jsonl")
    for numbers, kept, left_out in generations:
        asked, tasks = list(dict.fromkeys(numbers)), [group.task for group in kept]
        assert all(task % 2 for task in tasks) and left_out and not any(task % 2 for task in left_out)
        assert [task for task in tasks if task in asked] == [number for number in asked if number % 2]
        assert len({*tasks, *left_out}) == len(tasks) + len(left_out) and {*asked} <= {*tasks, *left_out}
    num_kept = sum(2 * len(kept) for _, kept, _ in generations)
    num_left_out = sum(2 * len(left_out) for _, _, left_out in generations)
    assert len(paying.asked) == len(records) == num_kept + num_left_out
    in_loss = [record for record in records if record["in_loss"]]
    assert len(in_loss) == num_kept and all(record["advantage"] != 0 for record in in_loss)
    others = [record for record in records if not record["in_loss"]]
    assert all(record["rewards"] == {"paying": 0.0} and "advantage" not in record for record in others)
    logged = trainer.state.log_history[0]
    assert logged["groups/without_signal"] > 0 and logged["groups/still_without_signal"] == 0
    assert logged["frac_reward_zero_std"] == 0
    last = [group.task for group in generations[-1][1] for _ in group.episodes]
    assert list(trainer._logs["extra"]["number"]) == last


def test_places_are_kept_where_no_other_group_has_a_signal(build):
    flat = Reward("flat", RewardKind.EPISODE, lambda task, episode: 1.0)
    trainer = build([flat], num_tasks=5, dynamic_sampling=3)
    [(numbers, kept, left_out)] = played(trainer)
    assert [group.task for group in kept for _ in group.episodes] == list(numbers)
    assert sorted({*numbers, *left_out}) == [0, 1, 2, 3, 4]
    assert trainer.state.log_history[0]["groups/still_without_signal"] == 1


def test_what_was_played_is_written_when_a_reward_raises(build, tmp_path):
    calls = []

    def failing(task, episode):
        calls.append(task)
        if len(calls) > 4:
            raise RuntimeError("it is down")
        return 1.0

    trainer = build([Reward("failing", RewardKind.EPISODE, failing)], num_tasks=6, dynamic_sampling=1)
    trainer.run = RunDirectory(tmp_path)
    with pytest.raises(Exception, match="it is down"):
        trainer.train()
    assert len(read_jsonl(tmp_path / "episodes.jsonl")) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dynamic_sampling": -1}, "how many times groups may be replaced"),
        ({"dynamic_sampling": 1, "num_tasks": 2}, "none to choose from"),
        ({"task_selection": "difficulty", "num_tasks": 2}, "none to choose from"),
        ({"task_selection": "dificulty"}, "use order or difficulty"),
    ],
    ids=str,
)
def test_tasks_that_cannot_be_chosen_so_are_refused(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**({"num_tasks": 4} | options))


def test_a_reward_model_under_zero_3_cannot_be_asked_by_some_processes_alone(monkeypatch):
    monkeypatch.setattr("rl.checks.is_deepspeed_zero3_enabled", lambda: True)
    args = GRPOArguments(output_dir="unused", dynamic_sampling=1, **ON_CPU)
    with pytest.raises(ValueError, match="cannot ask the reward model mine"):
        check_selection([], [Reward("mine", RewardKind.MODEL, "mine")], args)


def test_columns_that_only_some_rewards_log_are_filled_up(build):
    def paying(completions, task, log_extra, **columns):
        numbers = [_number(one) for one in task]
        if numbers[0] % 2:
            log_extra("odd", numbers)
        return [float(place % 2 and number % 2) for place, number in enumerate(numbers)]

    trainer = build([Reward("paying", RewardKind.TRL, paying)], num_tasks=24, dynamic_sampling=8)
    [(_, kept, _)] = played(trainer)
    logged = list(trainer._logs["extra"]["odd"])
    tasks = [group.task for group in kept for _ in group.episodes]
    assert len(logged) == len(tasks) and all(seen in (None, task) for seen, task in zip(logged, tasks, strict=True))


def test_drawing_by_difficulty_needs_answers(build, monkeypatch):
    tasks = [replace(task, answer=None) for task in make_tasks(num_tasks=3, seed=31)]
    monkeypatch.setattr("tests.rl.conftest.make_tasks", lambda **_: tasks)
    with pytest.raises(ValueError, match="3 of 3 tasks have none"):
        build(task_selection="difficulty")


@pytest.mark.parametrize("process", [0, 1])
def test_an_epoch_that_is_gone_on_with_has_its_own_order_in_every_process(process):
    """The wrapper that Accelerate puts around a sampler then hides it from `set_epoch`."""

    def batches(sampler, *, skipped=0, is_told=False):
        stock = DataLoader(range(12), batch_size=1, sampler=sampler)
        loader = prepare_data_loader(stock, num_processes=2, process_index=process, put_on_device=False)
        loader = skip_first_batches(loader, skipped) if skipped else loader
        loader.set_epoch(1)  # as the Trainer does
        if is_told:
            EpochCallback(sampler).on_epoch_begin(None, SimpleNamespace(epoch=1.25), None)
        return [batch.tolist() for batch in loader]

    def sampler():
        return EpochSampler(range(12), mini_repeat_count=1, batch_size=2, repeat_count=1, shuffle=True, seed=3)

    whole = batches(sampler())
    assert batches(sampler(), skipped=2, is_told=True) == whole[2:] and len(whole) == 6
    assert batches(sampler(), skipped=2) != whole[2:], "the callback is not needed any more"
