"""Tests a reward: `fovea rewards test ./mine.py:f` runs it over episodes made to be told apart.

Right and wrong ones, malformed ones, and those that try to be paid without having looked. Beside the payments it says
what looks like a mistake: a reward that pays all alike, that does not read the answer, that pays a wrong answer more
than a right one, or a trick or no answer at all as much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from fovea.boxes import WHOLE, Box, Frame
from fovea.commands import plain_parser
from fovea.episodes import (
    Answer,
    Call,
    Crop,
    Episode,
    Fault,
    FaultKind,
    Focus,
    NoAction,
    Observation,
    StopReason,
    Turn,
)
from fovea.tasks import AnswerKind, Target, Task
from rewards.registry import RewardError, load_reward
from rewards.trl_adapter import score

TARGET = Box(0.4, 0.4, 0.6, 0.6, Frame.UNIT)
ELSEWHERE = Box(0.0, 0.0, 0.1, 0.1, Frame.UNIT)


def sample_task() -> Task:
    return Task(
        "sample", (Image.new("RGB", (64, 64)),), "Which digit is on the red square?", "7", AnswerKind.NUMBER,
        boxes=(Target(TARGET),), metadata={"family": "read"},
    )  # fmt: skip


def _zooms(*regions: Box) -> list[Turn]:
    """A turn that zooms into each region."""
    turns = []
    for index, region in enumerate(regions, start=1):
        call = Call("image_zoom_in_tool", {"bbox_2d": [round(1000 * value) for value in region.coordinates]})
        text = f"<think>I look.</think>\n<tool_call>\n{{…{call.arguments}}}\n</tool_call>"
        turns.append(Turn(text, call, Observation("", (Crop(index, 0, region, (64, 64)),)), 40))
    return turns


def _says(task: Task, answer: str, *before: Turn, thought: str = "I see it.", well_formed: bool = True) -> Episode:
    """An episode that answers, after other turns."""
    text = f"<think>{thought}</think>\n<answer>{answer}</answer>" if well_formed else f"<answer>{answer}</answer> so"
    last = Turn(text, Answer(answer), None, 15 + len(thought) // 4, well_formed)
    return Episode(task, (*before, last), StopReason.ANSWERED, num_image_tokens=16 * (4 + len(before)))


def sample_episodes(task: Task) -> dict[str, Episode]:
    """By what they do; honest ones, right and then wrong, malformed ones, and tricks."""

    def says(answer: str, *regions: Box, **how: Any) -> Episode:
        return _says(task, answer, *_zooms(*regions), **how)

    def focused(answer: str) -> Episode:
        call = Call("focus_images_tool", {"question": task.question, "img_idxs": [0]})
        text = f"<think>I look.</think>\n<tool_call>\n{{…{call.arguments}}}\n</tool_call>"
        return _says(
            task, answer, Turn(text, call, Observation("", foci=(Focus((0,), task.question),)), 40), thought=answer
        )

    fault = Turn(
        "<tool_call>\n{oops\n</tool_call>", Fault(FaultKind.BAD_JSON, "not JSON"), Observation("not JSON"), 12, False
    )
    return {
        "right, no zoom": says("7"),
        "right, zoomed to the target": says("7", TARGET),
        "right, zoomed elsewhere": says("7", ELSEWHERE),
        "wrong, no zoom": says("3"),
        "wrong, zoomed to the target": says("3", TARGET),
        "right, focused on the image": focused("7"),
        "wrong, focused on the image": focused("3"),
        "right, out of format": says("7", well_formed=False),
        "right, after a malformed call": Episode(task, (fault, *says("7").turns), StopReason.ANSWERED),
        "no answer": Episode(task, (Turn("<think>hm</think>", NoAction(), None, 8, False),), StopReason.NO_ACTION),
        "never answers, only zooms": Episode(task, tuple(_zooms(*[TARGET] * 4)), StopReason.TURN_LIMIT),
        "trick: names every digit": says("0 1 2 3 4 5 6 7 8 9"),
        "trick: empty answer": says(""),
        "trick: wrong, in many words": says("3", thought="I look at it from all sides. " * 60),
        "trick: wrong, four zooms": says("3", TARGET, ELSEWHERE, TARGET, ELSEWHERE),
        "trick: wrong, zooms into the whole image": says("3", WHOLE),
        "trick: answers with every option": says("(A) 3 (B) 5 (C) 7 (D) 9"),
        "trick: repeats the question": says(task.question),
    }


def remarks(paid: Mapping[str, float | None]) -> list[str]:
    """Suspected mistakes in these payments, in words."""
    known = {name: value for name, value in paid.items() if value is not None}
    if len(set(known.values())) < 2:
        return ["it pays every episode alike: it does not see what it is given, and no advantage comes of it"]
    right, wrong = (
        [value for name, value in known.items() if name.startswith(f"{kind}, ") and "format" not in name]
        for kind in ("right", "wrong")
    )
    flaws = []
    if right and wrong and max(wrong) > max(right):
        flaws.append("a wrong answer is paid more than any right one")
    alike = [("right, no zoom", "wrong, no zoom"), ("right, zoomed to the target", "wrong, zoomed to the target")]
    if all(name in known for pair in alike for name in pair) and all(known[a] == known[b] for a, b in alike):
        flaws.append("it pays a wrong answer as a right one: weigh it below a reward that reads the answer (accuracy)")
    worst_right = min(right, default=float("-inf"))
    flaws += [f"{name!r} is paid more than some right answer" for name, value in known.items()
              if name.startswith(("trick", "wrong")) and value > worst_right]  # fmt: skip
    best = max(right, default=float("inf"))
    flaws += [f"{name!r} is paid as much as the best honest answer" for name, value in known.items()
              if name.startswith(("trick", "no answer", "never answers")) and value >= best]  # fmt: skip
    return flaws


def table(paid: dict[str, float | None]) -> str:
    lines = ["| episode | paid |", "|---|---|"]
    return "\n".join(
        [
            *lines,
            *(f"| {name} | {'not applicable' if value is None else f'{value:.3f}'} |" for name, value in paid.items()),
        ]
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("action", choices=["test"])
    parser.add_argument("rewards", nargs="+", help="names, package.module:function or ./file.py:function")
    args = parser.parse_args(arguments)
    for name in args.rewards:
        episodes = sample_episodes(sample_task())
        try:
            paid = dict(zip(episodes, score(load_reward(name), list(episodes.values())), strict=True))
        except (RewardError, ValueError) as error:
            raise SystemExit(f"{name}: {error}") from error
        print(f"\n{name}\n\n{table(paid)}")
        for remark in remarks(paid):
            print(f"! {remark}")


if __name__ == "__main__":
    main()
