"""Episodes on their own clocks are those that are played together, in the order of their tasks; failures lose none."""

import threading
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest

from benchmarks.waiting import Looks, OneByOne, Together, draw_lengths, seconds_of
from environments.play import ContinuousPolicy, play, play_each
from environments.policies.turns import ThreadedTurns
from environments.seats import Limits, Reply
from evaluation.arguments import EvaluationArguments
from evaluation.played import played_already, put_in_order
from evaluation.playing import Player, play_missing
from fovea.runs.records import read_samples
from fovea.tasks import Task


def tasks(number):
    return [Task(str(one), (), "?", "1") for one in range(number)]


def played(policy, number, *, in_flight, each=play):
    return each(policy, tasks(number), environment_factory=Looks, limits=Limits(max_turns=4), batch_size=in_flight)


@pytest.mark.parametrize("in_flight", [1, 3, 10, 64])
def test_the_same_episodes_in_the_same_order(in_flight):
    lengths = draw_lengths(10, 4, longest=6.6, seed=1)
    together, own = (played(kind(lengths), 10, in_flight=in_flight) for kind in (Together, OneByOne))
    assert [(e.task.id, e.turns, e.messages) for e in together] == [(e.task.id, e.turns, e.messages) for e in own]


def test_no_episode_waits_for_another():
    lengths = draw_lengths(64, 4, longest=6.6, seed=0)
    assert lengths.max() / lengths.mean() == pytest.approx(6.6, rel=0.02)
    assert seconds_of(OneByOne(lengths), in_flight=64) == pytest.approx(lengths.sum(1).max() / 50)
    assert seconds_of(Together(lengths), in_flight=16) > 1.6 * seconds_of(OneByOne(lengths), in_flight=16)


def test_at_most_so_many_are_under_way():
    class Counted(OneByOne):
        most = 0

        def submit(self, conversation, *, max_tokens):
            super().submit(conversation, max_tokens=max_tokens)
            self.most = max(self.most, len(self._under_way))

    policy = Counted(draw_lengths(12, 3, longest=4, seed=2))
    played(policy, 12, in_flight=5)
    assert policy.most == 5


class Fails(OneByOne):
    """Its ninth turn fails."""

    def finished(self):
        if self._number >= 9:
            raise RuntimeError("it is down")
        return super().finished()


def test_what_has_ended_comes_before_the_failure():
    lengths = np.array([[9, 9, 9], [1, 1, 1], [1, 1, 1], [9, 9, 9]])
    policy, seen = Fails(lengths), []
    with pytest.raises(RuntimeError, match="it is down"):
        seen.extend(episode.task.id for episode in played(policy, 4, in_flight=3, each=collecting(seen)))
    assert sorted(seen) == ["1", "2"] and not policy._under_way


def collecting(seen):
    def each(*args, **options):
        for _, episode in play_each(*args, **options):
            seen.append(episode.task.id)
        return []

    return each


class Stepped(OneByOne):
    """An engine that is stepped by its caller: every second step ends no turn."""

    is_stepped = True

    def __init__(self, lengths, *, steps=None):
        super().__init__(lengths)
        self.threads, self.num_steps, self.stepped = set(), 0, steps or threading.Event()

    def submit(self, conversation, *, max_tokens):
        self.threads.add(threading.get_ident())
        super().submit(conversation, max_tokens=max_tokens)

    def finished(self):
        self.num_steps += 1
        self.stepped.set()
        return [] if self.num_steps % 2 else super().finished()


@dataclass
class Works(Looks):
    """Its first look goes on until the engine has made another step."""

    threads: set[int]
    stepped: threading.Event

    def look(self):
        is_first = not self.threads
        self.threads.add(threading.get_ident())
        if is_first:
            self.stepped.clear()
            assert self.stepped.wait(10), "the engine waits for the environment"
        return "nothing"


@pytest.mark.parametrize("in_flight", [1, 3, 64])
def test_a_stepped_engine_plays_the_same_episodes(in_flight):
    lengths = draw_lengths(10, 4, longest=6.6, seed=1)
    together, own = (played(kind(lengths), 10, in_flight=in_flight) for kind in (Together, Stepped))
    assert [(e.task.id, e.turns, e.messages) for e in together] == [(e.task.id, e.turns, e.messages) for e in own]


def test_a_stepped_engine_writes_while_environments_work():
    threads, stepped = set(), threading.Event()
    policy, works = Stepped(np.full((4, 4), 5), steps=stepped), partial(Works, threads, stepped)
    episodes = play(policy, tasks(4), environment_factory=works, limits=Limits(max_turns=4), batch_size=4)
    assert [len(episode.turns) for episode in episodes] == [4] * 4
    assert policy.threads == {threading.get_ident()}
    assert len(threads) == 1 and threading.get_ident() not in threads, "environments are used in one thread alone"


class Breaks(Looks):
    """Its third look is refused."""

    looks = 0

    def look(self):
        type(self).looks += 1
        if self.looks == 3:
            raise OSError("no disk")
        return "nothing"


@pytest.mark.parametrize("kind", [OneByOne, Stepped])
def test_what_an_environment_raises_is_raised_and_nothing_stays_under_way(kind):
    Breaks.looks = 0
    policy = kind(np.full((5, 3), 5))
    with pytest.raises(OSError, match="no disk"):
        play(policy, tasks(5), environment_factory=Breaks, limits=Limits(max_turns=4), batch_size=4)
    assert not policy._under_way


class InThreads(ThreadedTurns):
    """Answers after a while, the later ones of four sooner."""

    num_threads = 4

    def __init__(self, *, fails=()):
        self.fails, self.threads = fails, set()

    def request(self, conversation, max_tokens):
        number = int(conversation.task.id)

        def ask():
            self.threads.add(threading.get_ident())
            time.sleep(0.02 * (4 - number % 4))
            if number in self.fails:
                raise RuntimeError("refused")
            return Reply("<answer>1</answer>", num_written=3)

        return ask


def test_threads_answer_in_both_forms():
    policy = InThreads()
    assert isinstance(policy, ContinuousPolicy) and not isinstance(Together(np.ones((1, 1))), ContinuousPolicy)
    assert [episode.task.id for episode in played(policy, 9, in_flight=4)] == list("012345678")
    assert len(policy.threads) > 1 and threading.get_ident() not in policy.threads


def test_a_refused_turn_loses_nothing_that_was_answered():
    seen = []
    with pytest.raises(RuntimeError, match="refused"):
        played(InThreads(fails=[0]), 4, in_flight=4, each=collecting(seen))  # it fails when the others have ended
    assert sorted(seen) == ["1", "2", "3"]


def test_an_evaluation_writes_what_has_ended_and_goes_on_behind_it(tmp_path, monkeypatch):
    """All missing questions are one batch of a continuous player; samples are written as they end, and put in order."""
    asked = []

    def player(fails):
        def play_some(some, seeds):
            asked.append([task.id for task in some])
            for task in some:
                if task.id == fails:
                    raise RuntimeError("it is down")
                yield from played_one(task)

        return Player(play_some, is_continuous=True)

    def played_one(task):
        return play(InThreads(), [task], environment_factory=Looks, limits=Limits(max_turns=4))

    arguments = EvaluationArguments(output_dir=str(tmp_path), batch_size=2, num_samples=2, temperature=1.0)
    some, hashes = tasks(5), {str(number): "hash" for number in range(5)}
    with pytest.raises(RuntimeError, match="it is down"):
        play_missing(player("3"), some, set(), arguments, hashes)
    put_in_order(tmp_path, hashes)
    assert [sample.task_id for sample in read_samples(tmp_path)] == ["0", "1", "2"]
    play_missing(player(None), some[::-1], played_already(tmp_path, hashes, arguments.num_samples), arguments, hashes)
    put_in_order(tmp_path, hashes)
    assert asked == [list("01234"), ["4", "3"], list("43210")]
    assert [(sample.task_id, sample.sample) for sample in read_samples(tmp_path)] == [
        *((str(number), 0) for number in range(5)),
        *((str(number), 1) for number in range(5)),
    ]
