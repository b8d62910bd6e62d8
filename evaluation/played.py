"""The samples that an evaluation has left in its folder: counted, put in order, and known again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fovea.config import ConfigError
from fovea.jsonl import cut_torn_line, replacing
from fovea.runs.records import SAMPLES, line_of, read_samples


def num_written(folder: Path) -> int:
    """The samples in a folder, those in parts included."""
    return sum(path.read_bytes().count(b"\n") for path in (folder / SAMPLES, *folder.glob(PARTS)) if path.exists())


PARTS = "samples.*.part.jsonl"
"""Files that several processes write, one each, until the main process joins them."""


def put_in_order(folder: Path, hashes: Mapping[str, str]) -> None:
    """Puts all samples, those of parts too, into samples.jsonl, in the order of samples and of tasks in `hashes`.

    Parts that a killed evaluation has left are taken in when it goes on.
    """
    parts = sorted(folder.glob(PARTS))
    for path in (folder / SAMPLES, *parts):
        cut_torn_line(path)
    before = read_samples(folder)
    samples = {(sample.task_id, sample.sample): sample for sample in before}
    for part in parts:
        for sample in read_samples(folder, file=part.name):
            samples.setdefault((sample.task_id, sample.sample), sample)
    places = {id: place for place, id in enumerate(hashes)}
    ordered = sorted(samples.values(), key=lambda one: (one.sample, places.get(one.task_id, len(places))))
    if ordered != before:
        with replacing(folder / SAMPLES) as file:
            file.writelines(map(line_of, ordered))
    for part in parts:
        part.unlink()


def played_already(folder: Path, hashes: Mapping[str, str], num_samples: int) -> set[tuple[str, int]]:
    """The ids and numbers of the samples that are in a folder already.

    Raises:
        ConfigError: if one of them was played on another question, reference or image than the task of its id is now,
            or on one that is not among the tasks, or if a task has more than `num_samples`.
    """
    cut_torn_line(folder / SAMPLES)
    samples = read_samples(folder)
    if gone := {sample.task_id for sample in samples} - hashes.keys():
        raise ConfigError(
            f"{folder / SAMPLES} holds {len(gone)} tasks that are not among the {len(hashes)} of now, {min(gone)} for "
            "one, and would count them: use another --output_dir, or the tasks of before (a larger --max_tasks)"
        )
    if (found := max((sample.sample + 1 for sample in samples), default=0)) > num_samples:
        raise ConfigError(
            f"{folder / SAMPLES} holds {found} samples a task, more than the {num_samples} of now, and would count "
            f"them: use another --output_dir, or --num_samples {found}"
        )
    for sample in samples:
        if sample.task_hash is not None and hashes.get(sample.task_id, sample.task_hash) != sample.task_hash:
            raise ConfigError(
                f"task {sample.task_id} is not what {folder / SAMPLES} was played on (question, reference or images "
                "have changed): use another --output_dir, or delete it"
            )
    return {(sample.task_id, sample.sample) for sample in samples}
