"""Examines traces one after another; what is kept of each is a few hashes and numbers."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from environments.arguments import EpisodeArguments
from environments.factories import box_frame, environment_factory, make_renderer
from environments.protocol import behind_thoughts
from environments.trace_tokens import TraceEncoder
from environments.traces import Trace, TraceError, first_turn, images_of, text_of, to_trace
from fovea.answers import readable, score
from fovea.boxes import UNIT_VIEW, Frame, Framing, coverage
from fovea.data.task_files import BAD_ROW
from fovea.images import PixelLimits, image_hash
from fovea.models.loading import Model
from fovea.tasks import Task
from synthesis.checks.calls import CallChecker
from synthesis.checks.texts import answer_problems, leaks, tag_problems, unsupported
from synthesis.duplicates import HashTable, perceptual_hash
from synthesis.formats.dialects import Cutting
from synthesis.formats.frames import Finding, evidence_of
from synthesis.formats.reading import OWN, ForeignTrace

NOTES = ("near-duplicate", "answer not in the last thought")
"""Kinds that are worth a look and need not be wrong."""
MIN_COVERAGE = 0.5
"""Share of a task's box that one of the crops has to show."""


@dataclass(frozen=True)
class Problem:
    """A problem of a trace: its kind, by which problems are counted, and words for this one."""

    line: int
    kind: str
    message: str

    @property
    def is_note(self) -> bool:
        return self.kind in NOTES


class Checker:
    """Examines traces for a model, and with `tasks`, by id, also whether they answer them and show their boxes."""

    def __init__(
        self,
        model: Model,
        episodes: EpisodeArguments,
        limits: PixelLimits,
        *,
        findings: Mapping[str, Finding],
        max_length: int | None = None,
        tasks: Mapping[str, Task] | None = None,
    ) -> None:
        environment = environment_factory(episodes, model)()
        self.frame = box_frame(episodes, model)
        self._calls = CallChecker(environment, self.frame, limits, episodes.crop_padding)
        self._encoder = TraceEncoder(make_renderer(episodes, model), environment, model.limits)
        self._findings = findings
        self.evidence = evidence_of({name: one for name, one in findings.items() if name != OWN})
        self._max_length, self._tasks, self._padding = max_length, tasks, episodes.crop_padding
        self.problems: list[Problem] = []
        self.formats: Counter[str] = Counter()
        self.lengths: list[int] = []
        """Tokens of each trace that could be read."""
        self.num_traces = self.num_zooms = 0
        self._seen: dict[bytes, int] = {}
        self._pictures: dict[bytes, HashTable] = defaultdict(HashTable)

    def cutting_of(self, foreign: ForeignTrace) -> Cutting:
        """The reading of a trace's boxes: from its format, else from the crops of its file."""
        finding = self._findings.get(foreign.format)
        if foreign.cutting.frame is not None or finding is None or finding.usual is None:
            return foreign.cutting
        return Cutting(*finding.usual)

    @property
    def num_problems(self) -> int:
        """The number of problems without notes."""
        return sum(not problem.is_note for problem in self.problems)

    def examine(self, line: int, foreign: ForeignTrace | TraceError) -> None:
        """Examines one trace."""
        self.num_traces += 1
        try:
            if isinstance(foreign, TraceError):
                raise foreign
            self._examine(line, foreign, to_trace(foreign.record))
        except (TraceError, *BAD_ROW) as error:
            self._add(line, "unreadable", str(error))

    def _examine(self, line: int, foreign: ForeignTrace, trace: Trace) -> None:
        self.formats[foreign.format] += 1
        if foreign.record["num_trailing"]:
            self._add(line, "trailing turn", f"{foreign.record['num_trailing']} turns follow the assistant's last")
        texts = [text_of(message) for message in trace.messages if message["role"] == "assistant"]
        for kind, message in (*tag_problems(texts), *answer_problems(texts), *leaks(trace), *unsupported(texts)):
            self._add(line, kind, message)
        cutting = self.cutting_of(foreign)
        calls = self._calls.examine(trace, cutting)
        self.num_zooms += calls.num_calls
        for kind, message in calls.problems:
            self._add(line, kind, message)
        if self._tasks is not None:
            self._compare(line, foreign.record.get("id"), texts[-1], calls.regions)
        self._measure(line, trace)
        self._double(line, trace)

    def _add(self, line: int, kind: str, message: str) -> None:
        self.problems.append(Problem(line, kind, message[:500]))

    def _compare(self, line: int, name: object, last: str, regions: list) -> None:
        """Reports problems that need the trace's task: a wrong answer, and boxes that no crop shows."""
        task = (self._tasks or {}).get(str(name))
        if task is None:
            self._add(line, "no task", f"no task has its id {name!r}")
            return
        answer = behind_thoughts(last)[1].partition("<answer>")[2].partition("</answer>")[0].strip()
        framing = Framing(self.frame)
        if task.kind.value != "box" and score(task, answer, framing) < 0.99:
            self._add(line, "wrong answer", f"it answers {answer!r}, and the task's reference is {readable(task)!r}")
        for target in task.boxes if regions else ():
            box = target.box.to(Frame.UNIT, UNIT_VIEW)
            best = max((coverage(box, region) for root, region in regions if root == target.img_idx), default=0.0)
            if best < MIN_COVERAGE:
                self._add(line, "target missed", f"the crops show {best:.0%} of a box of the task")

    def _measure(self, line: int, trace: Trace) -> None:
        length = len(self._encoder.encode(trace)[0])
        self.lengths.append(length)
        if self._max_length is not None and length > self._max_length:
            self._add(line, "too long", f"it has {length} tokens, more than --max_length {self._max_length}")

    def _double(self, line: int, trace: Trace) -> None:
        parts = [message["role"] + text_of(message) for message in trace.messages]
        parts += [image_hash(image) for image in images_of(trace.messages)]
        first = self._seen.setdefault(hashlib.sha256("\n".join(parts).encode()).digest(), line)
        if first != line:
            self._add(line, "doubled", f"it is line {first} again")
            return
        opening = trace.messages[: first_turn(trace)]
        question = " ".join(text_of(message) for message in opening if message["role"] == "user").casefold().split()
        views = images_of(opening)
        if not views:
            return
        known = self._pictures[hashlib.sha256(" ".join(question).encode()).digest()]
        picture = perceptual_hash(views[0])
        if (near := next(known.owners_of(picture), None)) is not None:
            self._add(line, "near-duplicate", f"line {near} asks the same of a picture that looks the same")
        known.add(picture, line)

    def finish(self) -> None:
        """Adds what only all traces together show of files that SFT reads: another frame or other crops than ours."""
        finding = self._findings.get(OWN)
        if finding is None or finding.usual is None:
            return
        if misread := finding.evidence.misread(self.frame):
            self._add(0, "other frame", misread[1])
        if (padding := finding.usual[1]) != self._padding:
            words = f"crops show {padding:g} times their boxes, and the environment cuts {self._padding:g} times"
            self._add(0, "other padding", f"{words} (--crop_padding)")
