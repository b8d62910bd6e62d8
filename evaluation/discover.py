"""The one finder of what lies in a folder: evaluations, a training, sweeps."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from evaluation.stored import StoredRun, tell_if_outdated
from fovea.runs.directory import METRICS
from fovea.runs.records import ROLLOUTS, SAMPLES, RunInfo, read_run, read_samples

SWEEP = "sweep.json"
HISTORY = "history.json"
ATTENTION = "attention.json"
POOLING = "pooling.json"
ANALYSES = (ATTENTION, POOLING, HISTORY)
"""Files that a report draws without any episode."""
WITH_TOOL, WITHOUT_TOOL, SCHEMA_ONLY, SINGLE_PASS = "with_tool", "without_tool", "schema_only", "single_pass"
ARMS: Mapping[str, Mapping[str, str]] = {
    WITH_TOOL: {},
    WITHOUT_TOOL: {"tools": "absent"},
    SCHEMA_ONLY: {"tools": "refused"},
    SINGLE_PASS: {"prompt": "direct"},
}
"""The arms of `fovea eval --arms`, by folder name, with the settings that differ from a plain evaluation."""
OWN = ""
"""The name of the evaluation that a folder itself holds."""
DEFAULT = "evaluation"
"""The usual folder of a run's evaluation."""


@dataclass(frozen=True)
class FoundRun:
    """A run under a unique name: its evaluations, the main one first, and its training."""

    name: str
    folder: Path
    evaluations: Mapping[str, StoredRun]
    training: StoredRun | None

    @property
    def main(self) -> StoredRun:
        """The evaluation by which the run is compared with others."""
        return next(iter(self.evaluations.values()))

    @property
    def info(self) -> RunInfo:
        """The start record (run.json) of the training, or of its main evaluation."""
        return self.training.info if self.training else self.main.info if self.evaluations else read_run(self.folder)

    @property
    def metrics(self) -> Path:
        return self.folder / METRICS

    def files(self, name: str) -> list[Path]:
        """The files of a name in the run's folder and directly below it: sweeps and analyses."""
        return [*self.folder.glob(name), *self.folder.glob(f"*/{name}")]


def evaluations_in(folder: Path) -> dict[str, Path]:
    """The folders that hold samples: the folder itself under the name `OWN`, and those directly below it."""
    own_evaluation = {OWN: folder} if (folder / SAMPLES).exists() else {}
    return own_evaluation | {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{SAMPLES}"))}


def folders_of(pattern: str | Path) -> list[Path]:
    """The folder of this name, brackets and all, or else those that the pattern finds."""
    return [Path(pattern)] if Path(pattern).exists() else [Path(name) for name in sorted(glob.glob(str(pattern)))]


def evaluations_to_compare(folder: Path) -> dict[str, Path]:
    """The evaluations that a folder stands for, by name.

    They are itself, its `evaluation`, its arm with the tool, or one for each benchmark below it.

    Raises:
        SystemExit: if there is none, or if those below it ask the same questions, as of several checkpoints do.
    """
    folders = evaluations_in(folder)
    for name in (OWN, DEFAULT, WITH_TOOL):
        if name in folders:
            return {OWN: folders[name]}
    if not folders and (arms := _arms_in(folder)):
        names = ", ".join(sorted({str(path.parent) for path in arms.values()}))
        raise SystemExit(f"{folder} holds an evaluation in arms: name its own folder, {names}")
    if not folders:
        raise SystemExit(f"{folder / SAMPLES} does not exist: run `fovea eval … --output_dir {folder}` first")
    if len(folders) > 1 and _ask_the_same(list(folders.values())):
        names = ", ".join(map(str, folders.values()))
        raise SystemExit(f"{folder} holds several evaluations of the same questions: name one of {names}")
    return folders


def _ask_the_same(folders: Sequence[Path]) -> bool:
    """Returns True if all questions of one folder are among another's, and both have the same benchmark or none."""
    asked = [(read_run(folder).chosen("evaluation").get("benchmark"), _questions(folder)) for folder in folders]
    return any(
        benchmark == other_benchmark
        and min(questions, other_questions, key=len) == questions & other_questions != set()
        for (benchmark, questions), (other_benchmark, other_questions) in combinations(asked, 2)
    )


def _questions(folder: Path) -> set[tuple[str, str, str]]:
    """The id, question and reference of each sample that holds its question."""
    samples = read_samples(folder)
    return {(sample.task_id, sample.question, str(sample.reference)) for sample in samples if sample.question}


def find_runs(folders: Sequence[Path]) -> list[FoundRun]:
    """The runs in these folders.

    Raises:
        SystemExit: for a folder without any episode, or one that is named twice.
    """
    return [_find_run(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]


def _find_run(folder: Path, name: str) -> FoundRun:
    known = evaluations_in(folder) | _arms_in(folder)
    folders = {name: path for name, path in known.items() if _has_line(path / SAMPLES)}
    ranked = sorted(folders, key=lambda name: (not is_plain(folders[name]), name != OWN, name != DEFAULT))
    training = StoredRun(folder, ROLLOUTS) if (folder / ROLLOUTS).exists() else None
    evaluations = {name or DEFAULT: StoredRun(folders[name], SAMPLES) for name in ranked}
    for path in folders.values():
        tell_if_outdated(path)
    run = FoundRun(name, folder, evaluations, training)
    if not folders and training is None and not any(map(run.files, ANALYSES)):
        hint = "name a run's folder"
        if (folder / "traces.jsonl").exists():
            hint = f"`fovea data check {folder} --page page.html` draws its traces"
        raise SystemExit(f"{folder} holds no episodes, neither of an evaluation nor of a training: {hint}")
    return run


def _arms_in(folder: Path) -> dict[str, Path]:
    """The arms of evaluations in a run's folder: `arms/with_tool` and so on."""
    paths = [path.parent for arm in ARMS for path in sorted(folder.glob(f"*/{arm}/{SAMPLES}"))]
    return {f"{path.parent.name}/{path.name}": path for path in paths}


def _has_line(path: Path) -> bool:
    """Returns True if a file holds at least one complete line."""
    with path.open("rb") as file:
        return file.readline().endswith(b"\n")


def is_plain(folder: Path) -> bool:
    """Returns True if an evaluation took nothing away and forced nothing, so that it measures the checkpoint itself."""
    settings = read_run(folder).chosen("evaluation", "episodes")
    plain_settings = {"crops": "true", "views": "true", "tools": "true", "prompt": "protocol", "force": "nothing",
                      "text_only": False, "token_pooling": 1, "pixel_pooling": 1}  # fmt: skip
    return all(settings.get(name, value) == value for name, value in plain_settings.items())


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise SystemExit("the same folder is named twice: name each run once")
