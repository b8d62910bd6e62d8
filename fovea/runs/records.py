"""Files of runs as typed records: lines of samples.jsonl and episodes.jsonl, run.json, summary.json.

Nothing else reads or writes these files. Each record that is written bears the number of its `SCHEMA`. Files of version
0.1, which bear none, are read too; files of a newer schema are refused.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar, cast

from fovea.boxes import Framing
from fovea.episodes import Episode, StopReason, Turn
from fovea.jsonl import append_lines, read_jsonl
from fovea.runs.turns import turn_from_json, turn_to_json
from fovea.tasks import NO_FAMILY, AnswerKind, Task

SCHEMA = 1
SAMPLES, ROLLOUTS, RUN, SUMMARY = "samples.jsonl", "episodes.jsonl", "run.json", "summary.json"
Arguments = TypeVar("Arguments")


class Group(NamedTuple):
    """The key that episodes on one task share, in a training those of one step. `step` is None in an evaluation."""

    step: int | None
    mode: str
    task_id: str


@dataclass(frozen=True, kw_only=True)
class EpisodeRecord:
    """The stored part of an episode: no pixels, no token ids. A field without a value stays out of the file."""

    task_id: str
    question: str = ""
    reference: Any = None
    answer: str | None = None
    stop_reason: StopReason = StopReason.ANSWERED
    num_zooms: int = 0
    num_tokens: int = 0
    """Tokens that the policy wrote."""
    num_context_tokens: int | None = None
    """Tokens of the whole sequence, prompt and crops included, where they are known."""
    num_image_tokens: int | None = None
    """Those of images among them."""
    faults: Mapping[str, int] = field(default_factory=dict)
    """The number of faults of each kind."""
    turns: tuple[Turn, ...] = ()
    framing: Framing | None = None
    """The frame of the answer's boxes; stored only if the answer is boxes."""
    environment_reward: float | None = None

    @classmethod
    def of(cls, episode: Episode, **details: Any) -> Self:
        """The record of an episode; `details` are the fields of this kind of record beyond the episode's own."""
        tokens = episode.tokens
        return cls(
            task_id=episode.task.id,
            question=episode.task.question,
            reference=episode.task.answer,
            answer=episode.answer,
            stop_reason=episode.stop_reason,
            num_zooms=episode.num_zooms,
            num_tokens=episode.num_tokens,
            num_context_tokens=len(tokens.prompt_ids + tokens.completion_ids) if tokens and tokens.prompt_ids else None,
            num_image_tokens=episode.num_image_tokens,
            faults=dict(Counter(fault.kind.value for fault in episode.faults)),
            turns=episode.turns,
            framing=episode.framing if episode.task.kind is AnswerKind.BOX else None,
            environment_reward=episode.environment_reward,
            **details,
        )

    def episode(self, task: Task) -> Episode:
        """The episode again, on the task that it was played on."""
        return Episode(
            task, self.turns, self.stop_reason, framing=self.framing, environment_reward=self.environment_reward,
            num_image_tokens=self.num_image_tokens,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The line of the file, JSON-ready."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values["turns"] = list(map(turn_to_json, self.turns))
        values["framing"] = None if self.framing is None else self.framing.to_dict()
        kept = {name: value for name, value in values.items() if value is not None or name == "answer"}
        return {"schema": SCHEMA, **kept}

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> Self:
        """The record of a line of the file.

        Raises:
            ValueError: for a line of a newer schema, or one that is no record.
        """
        check_schema(line)
        names = {one.name for one in fields(cls)}
        values = {name: value for name, value in line.items() if name in names and value is not None}
        values.setdefault("task_id", line.get("id"))
        if values["task_id"] is None:
            raise ValueError(
                f"a line has neither task_id nor id, but {sorted(line)}: it is no episode (is the file of another "
                "program?)"
            )
        values["turns"] = tuple(map(turn_from_json, values.get("turns", ())))
        if "stop_reason" in values:
            values["stop_reason"] = StopReason(values["stop_reason"])
        if "framing" in values:
            values["framing"] = Framing.from_dict(values["framing"])
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Sample(EpisodeRecord):
    """A line of samples.jsonl: an episode of an evaluation, scored."""

    sample: int = 0
    """The number of this episode among several on one task."""
    family: str = NO_FAMILY
    score: float
    scores: Mapping[str, float] = field(default_factory=dict)
    """By published rules, where the task is of a public benchmark, `strict` included."""
    within: Any = None
    """The group of questions whose scores are averaged first, where the benchmark does so."""
    cluster: str | None = None
    """Key of questions that ask the same several times, and therefore count once in intervals."""
    why: str = ""
    constant: str | None = None
    """The fixed answer that would be right for this question: the letter of a choice, else the reference."""
    task_hash: str | None = None
    """By which an evaluation that goes on notices that a question has changed."""

    @property
    def group(self) -> Group:
        return Group(None, "eval", self.task_id)

    def to_json(self) -> dict[str, Any]:
        return {"id": self.task_id, **super().to_json()}


@dataclass(frozen=True, kw_only=True)
class Rollout(EpisodeRecord):
    """A line of episodes.jsonl: an episode of a training, with what it was paid."""

    step: int
    mode: str = "train"
    """"train", or "eval" for one on a held-out task."""
    in_loss: bool = False
    rewards: Mapping[str, float | None] = field(default_factory=dict)
    """By reward; None where it does not apply."""
    reward: float | None = None
    """Their weighted sum; None where none applies."""
    advantage: float | None = None

    @property
    def is_of_a_batch(self) -> bool:
        """True if a training's batch holds the episode: it is not held out, and its group was not replaced."""
        return self.mode == "train" and (self.advantage is not None or not self.rewards)

    @property
    def group(self) -> Group:
        return Group(self.step, self.mode, self.task_id)


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """run.json: how a run was started."""

    command: tuple[str, ...] = ()
    started: str = ""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By part (evaluation, episodes; script, model, training, data), the resolved options."""
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    dirty: bool | None = None
    """True if the source tree had uncommitted changes."""

    def chosen(self, *parts: str) -> dict[str, Any]:
        """The options of these parts together, later parts winning."""
        return {name: value for part in parts for name, value in self.settings.get(part, {}).items()}

    def arguments(self, kind: type[Arguments], *parts: str) -> Arguments:
        """These options as an argument class; those that it does not have, or no longer, are left out."""
        names = {one.name for one in fields(cast(Any, kind))}
        return kind(**{name: value for name, value in self.chosen(*parts).items() if name in names})


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """The accuracy of an evaluation, or of a family of its questions. Several samples of a task are averaged."""

    n: int
    """Questions."""
    accuracy: float
    interval: tuple[float, float]
    """95%, Wilson."""
    best_constant: float
    """The accuracy of the best single answer to every question of a family: a baseline without looking."""
    zooms_per_question: float
    zoom_rate: float
    tokens_per_question: float
    context_tokens_per_question: float | None
    """Tokens of prompt, crops and turns; None if unknown, as the next field."""
    image_tokens_per_question: float | None = None
    stop_reasons: Mapping[str, int] = field(default_factory=dict)
    rules: Mapping[str, float] = field(default_factory=dict)
    """By published rule, where the tasks are of a public benchmark."""


@dataclass(frozen=True, kw_only=True)
class Summary(Accuracy):
    """summary.json: an evaluation in all, by published rule, and by family."""

    model: str = ""
    prompt: str = ""
    crops: str = ""
    families: Mapping[str, Accuracy] = field(default_factory=dict)


def read_samples(folder: Path, *, file: str = SAMPLES) -> list[Sample]:
    """The samples of an evaluation's folder; none where there is no such file."""
    return list(_records(Sample, folder / file))


def read_rollouts(folder: Path) -> list[Rollout]:
    """The rollouts of a training's folder; none where there is no training."""
    return list(_records(Rollout, folder / ROLLOUTS))


def _records(kind: type[EpisodeRecord], path: Path) -> Iterator[Any]:
    for number, line in enumerate(read_jsonl(path), start=1):
        try:
            yield kind.from_json(line)
        except (TypeError, ValueError, KeyError) as error:
            raise ValueError(f"line {number} of {path} cannot be read: {error}. Correct or delete it") from error


def line_of(record: EpisodeRecord) -> str:
    """A record as a line of its file."""
    return json.dumps(record.to_json(), default=str) + "\n"


def append(path: Path, records: Iterable[EpisodeRecord]) -> None:
    """Writes a line for each record behind what is there: all of them, or none if one cannot be made."""
    append_lines(path, list(map(line_of, records)))


def read_run(folder: str | Path) -> RunInfo:
    """The start record (run.json) of a folder; empty if there is none."""
    path = Path(folder) / RUN
    return _of(RunInfo, json.loads(path.read_text())) if path.exists() else RunInfo()


def write_run(folder: Path, info: RunInfo) -> None:
    (folder / RUN).write_text(json.dumps({"schema": SCHEMA, **asdict(info)}, indent=2, default=str) + "\n")


def read_summary(folder: Path) -> Summary:
    """The summary of an evaluation's folder.

    Raises:
        FileNotFoundError: if the evaluation is not finished.
    """
    record = json.loads((folder / SUMMARY).read_text())
    families = {name: _of(Accuracy, part) for name, part in record["families"].items()}
    return _of(Summary, {**record, "families": families})


def write_summary(folder: Path, summary: Summary) -> None:
    (folder / SUMMARY).write_text(json.dumps({"schema": SCHEMA, **asdict(summary)}, indent=2) + "\n")


def check_schema(record: Mapping[str, Any]) -> None:
    """Raises ValueError for a record of a newer schema."""
    if record.get("schema", 0) > SCHEMA:
        raise ValueError(f"it is of schema {record['schema']}, and this version reads up to {SCHEMA}: update Fovea")


def _of(kind: type, record: Mapping[str, Any]) -> Any:
    """A record of a JSON object: fields that this kind does not have are left out, lists become tuples."""
    check_schema(record)
    names = {one.name for one in fields(kind)}
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
    return kind(**{name: value for name, value in values.items() if name in names})
