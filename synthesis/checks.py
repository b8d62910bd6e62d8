"""Is a file of traces fit to be learned from? `fovea data check traces.jsonl --model_name_or_path MODEL`.

Every trace is examined alone, and all together: tags, answers, calls that the environment would refuse, crops that do
not show their box, answers told before they were seen, doubles, and the frame of boxes. Problems are named by line. The
exit status is 1 if there is any. `--json` writes them to a file.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image
from tqdm import tqdm

from environments.arguments import EpisodeArguments
from environments.factories import box_frame, environment_factory
from environments.play import tools_of
from environments.protocol import parse_actions
from environments.trace_crops import UNLIKE, difference, likeness, zooms_in
from environments.traces import Trace, TraceError, blocks_of, numbered_traces, to_trace
from fovea.answers.boxes import is_four_numbers
from fovea.answers.telling import tells
from fovea.arguments import PixelArguments
from fovea.boxes import Box, Frame, View
from fovea.config import parse
from fovea.episodes import Call, Fault, ModelFault
from fovea.images import ImageError, cut, fit, image_hash
from fovea.models.loading import Model, load_outline
from fovea.tasks import Task
from synthesis.arguments import with_names

TAGS = ("think", "tool_call", "answer")


@dataclass(frozen=True)
class Problem:
    """What is wrong with a trace: the kind, by which problems are counted, and the words for this one."""

    line: int
    kind: str
    message: str


@dataclass(kw_only=True)
class CheckArguments(PixelArguments):
    """Which traces, and for which model."""

    dataset_name: str = field(metadata={"help": "Traces: a JSONL or JSON file, or a folder with traces.jsonl in it."})
    model_name_or_path: str = field(
        default="tiny", metadata={"help": "The model to be trained: its frame, its processor's limits, its tool."}
    )
    max_problems: int = field(default=5, metadata={"help": "Problems of one kind that are shown."})
    json: str | None = field(default=None, metadata={"help": "Write all problems to this file."})


class Checker:
    """Examines traces one after another; what it keeps of each is a few hashes and numbers."""

    def __init__(self, model: Model, episodes: EpisodeArguments) -> None:
        self.frame = box_frame(episodes, model)
        self.limits, self.padding = model.limits, episodes.crop_padding
        self.environment = environment_factory(episodes, model)()
        self.problems: list[Problem] = []
        self.num_traces = self.num_zooms = 0
        self._seen: dict[str, int] = {}
        self._apart: dict[Frame, list[float]] = defaultdict(list)

    def examine(self, line: int, record: dict | TraceError) -> None:
        """Examines one trace."""
        self.num_traces += 1
        try:
            if isinstance(record, TraceError):
                raise record
            trace = to_trace(record)
        except (TraceError, ImageError) as error:
            self._add(line, "unreadable", str(error))
            return
        if record["num_trailing"]:
            self._add(line, "trailing turn", f"{record['num_trailing']} turns follow the assistant's last")
        texts = [_text(message) for message in trace.messages if message["role"] == "assistant"]
        for kind, message in (*tag_problems(texts), *answer_problems(texts), *leaks(trace)):
            self._add(line, kind, message)
        for kind, message in self._call_problems(trace):
            self._add(line, kind, message)
        self._compare_frames(trace)
        self._double(line, trace)

    def _add(self, line: int, kind: str, message: str) -> None:
        self.problems.append(Problem(line, kind, message))

    def _call_problems(self, trace: Trace) -> Iterator[tuple[str, str]]:
        """Calls that the environment refuses, and crops that do not show what they should."""
        views = _images(trace.messages[: _first_turn(trace)])
        self.environment.reset(task=Task("", tuple(views), "?", ""))
        shown = list(views)
        for number, message in enumerate(trace.messages):
            if message["role"] != "assistant":
                continue
            behind = takewhile(lambda message: message["role"] == "tool", trace.messages[number + 1 :])
            images = _images(behind)
            crops = iter(images)
            for action in parse_actions(_text(message)):
                if isinstance(action, Fault):
                    yield "unreadable call", f"message {number}: {action.message}"
                if isinstance(action, Call):
                    self.num_zooms += 1
                    where = f"message {number}, {json.dumps(action.arguments)}"
                    if problem := self._problem_of(action, shown, len(views), crops):
                        yield problem[0], f"{where}: {problem[1]}"
            shown += images

    def _problem_of(
        self, call: Call, shown: Sequence[Image.Image], num_views: int, crops: Iterator[Image.Image]
    ) -> tuple[str, str] | None:
        """What is wrong with a call, if anything: its kind and the words for it."""
        tool = tools_of(self.environment).get(call.name)
        if tool is None:
            return "refused call", f"there is no tool {call.name!r}"
        numbers, index = call.arguments.get("bbox_2d"), call.arguments.get("img_idx", 0)
        is_crop = isinstance(index, int) and num_views <= index < len(shown)
        if not is_crop:  # of an earlier crop the environment would know another size than the trace shows
            try:
                tool(**call.arguments)
            except (ModelFault, TypeError) as error:
                return "refused call", str(error)
        if not is_four_numbers(numbers) or not isinstance(index, int) or index >= len(shown):
            return "refused call", "its box or its image is not to be read"
        source = shown[index]
        view = View(source.size, source.size if is_crop else fit(source, self.limits).size)
        box = Box.of(numbers or (), self.frame).to(Frame.UNIT, view).enlarged(self.padding).clipped(view)
        if box.is_empty:
            return "refused call", f"the box holds nothing of image {index}"
        crop = next(crops, None)
        if crop is None:
            return "no crop", "no image stands behind the call"
        if (value := likeness(cut(source, box), crop)) < UNLIKE:
            return "other crop", f"the image behind the call shows something else (correlation {value:.2f})"
        return None

    def _compare_frames(self, trace: Trace) -> None:
        for zoom in zooms_in(trace):
            view = View(zoom.source.size, fit(zoom.source, self.limits).size)
            for frame in Frame:
                box = Box.of(zoom.numbers, frame)
                self._apart[frame].append(difference(zoom.source, box, view, zoom.crop, self.padding))

    def _double(self, line: int, trace: Trace) -> None:
        parts = [message["role"] + _text(message) for message in trace.messages]
        parts += [image_hash(image) for image in _images(trace.messages)]
        name = hashlib.sha256("\n".join(parts).encode()).hexdigest()
        if (first := self._seen.setdefault(name, line)) != line:
            self._add(line, "doubled", f"it is line {first} again")

    def finish(self) -> None:
        """Adds what only all traces together show: boxes in another frame than the model's."""
        typical = {frame: median(apart) for frame, apart in self._apart.items() if apart}
        if not typical:
            return
        best = min(typical, key=lambda frame: (round(typical[frame], 1), frame is Frame.ORIGINAL))
        if best is not self.frame and typical[best] < 0.7 * typical[self.frame]:
            evidence = ", ".join(f"{frame.value} {value:.1f}" for frame, value in typical.items())
            message = f"boxes give the crops behind them if they are read in {best.value}, and the model writes "
            self._add(0, "other frame", f"{message}{self.frame.value} (median difference of levels: {evidence})")


def tag_problems(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Tags of the assistant's turns that are not closed, or closed twice."""
    for number, text in enumerate(texts):
        for tag in TAGS:
            opened, closed = text.count(f"<{tag}>"), text.count(f"</{tag}>")
            if opened != closed:
                yield "unclosed tag", f"turn {number} opens <{tag}> {opened} times and closes it {closed} times"


def answer_problems(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Answers that are missing, doubled, or followed by more."""
    counts = [len(re.findall(r"<answer>", text)) for text in texts]
    if sum(counts) == 0:
        yield "no answer", "no turn holds an answer"
    elif sum(counts) > 1:
        yield "two answers", f"the turns hold {sum(counts)} answers"
    elif counts[-1] == 0 or "<tool_call>" in texts[-1].partition("<answer>")[2]:
        yield "call after answer", "more follows the answer"


def leaks(trace: Trace) -> Iterator[tuple[str, str]]:
    """An answer that is written before any crop was seen, in a trace with crops."""
    texts = [_text(message) for message in trace.messages if message["role"] == "assistant"]
    match = re.search(r"<answer>(.*?)</answer>", texts[-1], re.DOTALL)
    if match is None or len(texts) < 2:
        return
    asked = " ".join(_text(message) for message in trace.messages[: _first_turn(trace)])
    task = Task("", (), asked, match[1].strip())
    if tells(texts[0].partition("<tool_call>")[0], task):
        yield "leaked answer", f"the first turn tells {task.answer!r} before anything was zoomed into"


def _first_turn(trace: Trace) -> int:
    return next(number for number, message in enumerate(trace.messages) if message["role"] == "assistant")


def _text(message: dict) -> str:
    return "".join(block["text"] for block in blocks_of(message["content"]) if block["type"] == "text")


def _images(messages: Iterable[dict]) -> list[Image.Image]:
    blocks = (block for message in messages for block in blocks_of(message["content"]))
    return [block["image"] for block in blocks if block["type"] == "image"]


def table(checker: Checker, max_shown: int) -> str:
    """The problems by kind, the first of each in full."""
    lines = [f"\n{checker.num_traces} traces, {checker.num_zooms} calls, {len(checker.problems)} problems"]
    for kind, count in Counter(problem.kind for problem in checker.problems).most_common():
        lines.append(f"\n{kind}: {count}")
        shown = [problem for problem in checker.problems if problem.kind == kind][:max_shown]
        lines += [f"  {'file' if not one.line else f'line {one.line}'}: {one.message[:300]}" for one in shown]
    return "\n".join(lines)


def check(arguments: CheckArguments, episodes: EpisodeArguments) -> Checker:
    """Examines a file of traces, one at a time."""
    outline = load_outline(
        arguments.model_name_or_path, min_pixels=arguments.min_pixels, max_pixels=arguments.max_pixels
    )
    checker = Checker(outline, episodes)
    for line, record in tqdm(numbered_traces(arguments.dataset_name), desc="traces"):
        checker.examine(line, record)
    checker.finish()
    return checker


def main() -> None:
    sys.argv[1:] = with_names(sys.argv[1:], "--dataset_name")
    arguments, episodes = parse((CheckArguments, EpisodeArguments))
    try:
        checker = check(arguments, episodes)
    except (FileNotFoundError, TraceError) as error:
        raise SystemExit(str(error)) from error
    print(table(checker, arguments.max_problems))
    if arguments.json:
        problems: list[dict[str, Any]] = [asdict(problem) for problem in checker.problems]
        Path(arguments.json).write_text(json.dumps(problems, indent=2) + "\n")
    sys.exit(1 if checker.problems else 0)


if __name__ == "__main__":
    main()
