"""Time that episodes wait for each other's turns: `python -m benchmarks.waiting`.

An engine that is only a clock writes every turn at the same number of tokens a second. Lengths are drawn with a long
tail, the longest about 6.6 times the mean. The same episodes are played turn by turn together, as any policy is, and
each on its own clock, as engines are whose turns end one by one (`environments.play.ContinuousPolicy`).

With --engine CHECKPOINT a real vLLM engine plays the held-out questions of the tiny model in both ways, sampling at
temperature 1, and real seconds are counted. With --transformers CHECKPOINT the Transformers policy writes turns of the
drawn lengths behind those questions, a tenth as long.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory, make_renderer
from environments.play import Policy, Sampling, play
from environments.policies.transformers import TransformersPolicy
from environments.policies.vllm import VllmPolicy, start_engine
from environments.seats import Conversation, Limits, Reply, begin
from fovea.commands import plain_parser
from fovea.models.loading import load_model
from fovea.models.names import resolve_path
from fovea.tasks import Task
from synthesis.shapes import test_tasks

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
        """Seconds that the next turn takes, and the turn."""
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


@dataclass
class Lockstep:
    """A policy without the form in which turns end one by one."""

    policy: Policy

    def reply(self, conversations: Sequence[Conversation], *, max_tokens: Sequence[int]) -> list[Reply]:
        return self.policy.reply(conversations, max_tokens=max_tokens)


def measure_engine(checkpoint: str, *, num_episodes: int, in_flight: int, repeats: int) -> None:
    """Prints the seconds of a vLLM engine, both ways by turns."""
    model = load_model(checkpoint)
    episodes = EpisodeArguments(crop_min_pixels=4096, crop_max_pixels=5120)
    renderer = make_renderer(episodes, model)
    policy = VllmPolicy(start_engine(resolve_path(checkpoint), max_model_len=2048), renderer, Sampling(1.0))
    for _ in range(repeats + 1):  # the first is not counted
        seconds = []
        for kind in (Lockstep(policy), policy):
            started = time.perf_counter()
            play(
                kind,
                test_tasks()[:num_episodes],
                environment_factory=environment_factory(episodes, model),
                limits=episodes.limits(),
                renderer=renderer,
                batch_size=in_flight,
            )
            seconds.append(time.perf_counter() - started)
        print(f"| vLLM, {in_flight} | {seconds[0]:.1f} | {seconds[1]:.1f} | {seconds[0] / seconds[1]:.2f} |")


def seconds_of_transformers(checkpoint: str, lengths: np.ndarray, *, is_together: bool) -> float:
    """Seconds in which the Transformers policy writes turns of these lengths, all together or one by one."""
    model = load_model(checkpoint)
    episodes = EpisodeArguments(crop_min_pixels=4096, crop_max_pixels=5120)
    renderer = make_renderer(episodes, model)
    renderer.end_ids = ()  # a turn ends at its length alone
    go_on = renderer.observation_ids([{"type": "text", "text": "Go on."}])
    policy = TransformersPolicy(model.network, renderer, Sampling(0.0), batch_size=len(lengths))
    make = environment_factory(episodes, model)
    rows = [begin(make(), task, renderer) for task in test_tasks()[: len(lengths)]]
    started = time.perf_counter()
    if is_together:
        for turn in lengths.T.tolist():
            for row, reply in zip(rows, policy.reply(rows, max_tokens=turn), strict=True):
                row.token_ids += [*reply.token_ids, *go_on]
        return time.perf_counter() - started
    left = {id(row): iter(turns) for row, turns in zip(rows, lengths.tolist(), strict=True)}
    for row in rows:
        policy.submit(row, max_tokens=next(left[id(row)]))
    num_writing = len(rows)
    while num_writing:
        for row, reply in policy.finished():
            row.token_ids += [*reply.token_ids, *go_on]
            if (length := next(left[id(row)], None)) is None:
                num_writing -= 1
            else:
                policy.submit(row, max_tokens=length)
    return time.perf_counter() - started


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("--num_episodes", type=int, default=64)
    parser.add_argument("--num_turns", type=int, default=4)
    parser.add_argument("--longest", type=float, default=6.6, help="longest turn, in means")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--engine", help="checkpoint that vLLM plays instead of the clock")
    parser.add_argument("--transformers", metavar="CHECKPOINT", help="checkpoint that Transformers plays")
    args = parser.parse_args()
    if args.engine:
        measure_engine(args.engine, num_episodes=args.num_episodes, in_flight=16, repeats=args.seeds)
        return
    if args.transformers:
        print("| seed | together, s | one by one, s | times as fast |\n|---|---|---|---|")
        for seed in range(args.seeds):
            lengths = draw_lengths(args.num_episodes, args.num_turns, longest=args.longest, seed=seed) // 10 + 1
            together, one_by_one = (
                seconds_of_transformers(args.transformers, lengths, is_together=way) for way in (True, False)
            )
            print(f"| {seed} | {together:.1f} | {one_by_one:.1f} | {together / one_by_one:.2f} |", flush=True)
        return
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
