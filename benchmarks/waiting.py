"""How long episodes wait for each other's turns: `python -m benchmarks.waiting`.

An engine that is only a clock writes every turn at the same number of tokens a second. Lengths are drawn with a long
tail, the longest about 6.6 times the mean. The same episodes are played turn by turn together, as any policy is, and
each on its own clock, as engines are whose turns end one by one (`environments.play.ContinuousPolicy`).
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from environments.play import play
from environments.seats import Conversation, Limits, Reply
from fovea.tasks import Task

CALL = '<tool_call>{"name": "look", "arguments": {}}</tool_call>'


class Looks:
    """An environment whose tool shows nothing."""

    system_prompt = ""

    def reset(self, *, question: str, **row: object) -> str:
        return question

    def look(self) -> str:
        return "nothing"


@dataclass
class Together:
    """Writes turns of `lengths[task][turn]` tokens; `seconds` is what its clock says."""

    lengths: np.ndarray
    tokens_a_second: float = 50.0
    seconds: float = 0.0

    def turn(self, conversation: Conversation) -> tuple[float, Reply]:
        """How long the next turn takes, and the turn."""
        number = sum(message["role"] == "assistant" for message in conversation.messages)
        turns = self.lengths[int(conversation.task.id)]
        text = CALL if number + 1 < len(turns) else "<answer>1</answer>"
        return float(turns[number]) / self.tokens_a_second, Reply(text, num_written=int(turns[number]))

    def reply(self, conversations: Sequence[Conversation], *, max_tokens: Sequence[int]) -> list[Reply]:
        turns = list(map(self.turn, conversations))
        self.seconds += max(seconds for seconds, _ in turns)
        return [reply for _, reply in turns]


@dataclass
class OneByOne(Together):
    """The same engine, whose turns end one by one."""

    _under_way: list[tuple[float, int, Conversation, Reply]] = field(default_factory=list)
    _number: int = 0

    def submit(self, conversation: Conversation, *, max_tokens: int) -> None:
        seconds, reply = self.turn(conversation)
        self._number += 1
        heapq.heappush(self._under_way, (self.seconds + seconds, self._number, conversation, reply))

    def finished(self) -> list[tuple[Conversation, Reply]]:
        self.seconds, _, conversation, reply = heapq.heappop(self._under_way)
        return [(conversation, reply)]

    def abandon(self) -> None:
        self._under_way.clear()


def draw_lengths(num_episodes: int, num_turns: int, *, longest: float, seed: int) -> np.ndarray:
    """Tokens [episodes, turns], log-normal, the longest `longest` times the mean."""
    normal = np.random.default_rng(seed).standard_normal((num_episodes, num_turns))
    low, high = 0.0, 5.0
    while high - low > 1e-6:
        spread = (low + high) / 2
        lengths = np.exp(spread * normal)
        low, high = (spread, high) if lengths.max() / lengths.mean() < longest else (low, spread)
    return np.maximum(1, np.round(200 * lengths / lengths.mean())).astype(int)


def seconds_of(engine: Together, *, in_flight: int) -> float:
    """Seconds of its clock to play all episodes."""
    num_episodes, num_turns = engine.lengths.shape
    tasks = [Task(str(number), (), "?", "1") for number in range(num_episodes)]
    episodes = play(engine, tasks, environment_factory=Looks, limits=Limits(max_turns=num_turns), batch_size=in_flight)
    assert [episode.task.id for episode in episodes] == [task.id for task in tasks]
    assert all(len(episode.turns) == num_turns for episode in episodes)
    return engine.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_episodes", type=int, default=64)
    parser.add_argument("--num_turns", type=int, default=4)
    parser.add_argument("--longest", type=float, default=6.6, help="longest turn, in means")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    print("| in flight | seed | together, s | one by one, s | times as fast | longest episode alone, s |")
    print("|---|---|---|---|---|---|")
    for in_flight in (16, args.num_episodes):
        for seed in range(args.seeds):
            lengths = draw_lengths(args.num_episodes, args.num_turns, longest=args.longest, seed=seed)
            together, one_by_one = (seconds_of(kind(lengths), in_flight=in_flight) for kind in (Together, OneByOne))
            alone = lengths.sum(1).max() / Together(lengths).tokens_a_second
            numbers = f"{together:.1f} | {one_by_one:.1f} | {together / one_by_one:.2f} | {alone:.1f}"
            print(f"| {in_flight} | {seed} | {numbers} |")


if __name__ == "__main__":
    main()
