"""Turns anyone's traces into a cold start for your model: `fovea data convert IN OUT --model_name_or_path MODEL`.

IN is a JSONL, JSON or Parquet file, a saved dataset, a folder with traces.jsonl, or a hub id. Its format is told by its
content: Chain-of-Focus (MM-CoF, and the older form), LLaMA-Factory's sharegpt, ms-swift, TRL, Hermes, Mini-o3,
Pixel-Reasoner, ViGoRL; prompts of DeepEyes become tasks. Each trace is played again in the zoom environment: boxes are
turned into the frame of the model, crops are cut and worded as in its rollouts. What was changed is counted and shown.

OUT gets traces.jsonl for SFT, tasks/ for GRPO, and what `fovea report OUT` and `fovea view OUT` show. `--to FORMAT`
writes another format in place of ours: chain_of_focus, chain_of_focus_v0, sharegpt, swift, trl, hermes, mini_o3,
pixel_reasoner, vigorl, or deepeyes, which are prompts for RL.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path

from tqdm import tqdm

from environments.arguments import EpisodeArguments
from environments.factories import box_frame, environment_factory
from environments.seats import tools_of
from environments.trace_files import file_of
from environments.traces import TraceError
from fovea.config import ConfigError, parse
from fovea.data.columns import TaskError
from fovea.data.identity import fingerprint
from fovea.data.sources import read_rows
from fovea.data.task_files import BAD_ROW, save_tasks, to_tasks
from fovea.episodes import Episode
from fovea.models.loading import load_outline
from fovea.runs.directory import RunDirectory
from fovea.runs.records import SAMPLES, Sample, append
from fovea.tasks import Task
from synthesis.arguments import for_one_pass, refuse_full_folder, refuse_own_folder, unused, with_names
from synthesis.formats.conversion import Conversion
from synthesis.formats.dialects import Cutting
from synthesis.formats.frames import Finding, cutting_of, evidence_of
from synthesis.formats.prompts import DEEPEYES, FILE_NAME, is_prompt, task_row, write_prompts
from synthesis.formats.reading import OWN
from synthesis.formats.replaying import Stage, replayed
from synthesis.formats.sources import SourceArguments
from synthesis.formats.wording import Changes
from synthesis.formats.writing import WRITERS, written


@dataclass(kw_only=True)
class ConvertArguments(SourceArguments):
    """The traces to convert, the model they are for, and the format to write."""

    output_dir: str = field(metadata={"help": "Folder for the converted traces."})
    to: str = field(default=OWN, metadata={"help": "Format to write: fovea, or the name of another one."})
    strip: str | None = field(
        default=None, metadata={"help": "Regular expression: what it matches is taken out of questions."}
    )
    max_traces: int | None = field(default=None, metadata={"help": "Read at most this many traces."})

    def __post_init__(self) -> None:
        if self.to not in (*WRITERS, DEEPEYES):
            raise ConfigError(f"--to {self.to!r} is no format: write one of {', '.join((*WRITERS, DEEPEYES))}")
        try:
            re.compile(self.strip or "")
        except re.error as error:
            raise ConfigError(f"--strip {self.strip!r} is no regular expression: {error}") from None

    @property
    def stripped(self) -> re.Pattern | None:
        return re.compile(self.strip, re.DOTALL) if self.strip else None


def episodes_of(
    arguments: ConvertArguments, stage: Stage, findings: dict[str, Finding], conversion: Conversion
) -> Iterator[tuple[int, Episode]]:
    """Yields traces as episodes, with their numbers. Traces that become none are counted in `conversion`."""
    names: set[str] = set()
    given = Cutting(arguments.frame, arguments.source_padding or 1.0)
    for number, foreign in tqdm(islice(arguments.traces(), arguments.max_traces), desc="traces"):
        if isinstance(foreign, TraceError):
            conversion.dropped[number] = str(foreign)
            continue
        conversion.formats[foreign.format] += 1
        name = unused(str(number if foreign.record["id"] is None else foreign.record["id"]), names)
        changes = Changes()
        try:
            cutting = cutting_of(foreign, findings.get(foreign.format), given, changes)
            episode, of_trace = replayed(foreign, name, cutting, stage)
        except (TraceError, *BAD_ROW) as error:
            conversion.dropped[number] = str(error)
            continue
        changes.add(of_trace)
        conversion.changes.add(changes)
        conversion.keep_tail(episode.task.question)
        yield number, episode


def convert(arguments: ConvertArguments, episodes: EpisodeArguments) -> Conversion:
    """Converts a file of traces, one at a time.

    Raises:
        FileNotFoundError: where there is no such file.
        TraceError: for a file that cannot be read, or of which no trace is left.
    """
    model = load_outline(arguments.model_name_or_path, min_pixels=arguments.min_pixels, max_pixels=arguments.max_pixels)
    episodes = for_one_pass(episodes)
    stage = Stage(
        environment_factory(episodes, model), box_frame(episodes, model), arguments.limits(model), arguments.stripped
    )
    folder = Path(arguments.output_dir)
    refuse_own_folder(folder, [file_of(arguments.dataset_name)])
    refuse_full_folder(folder)
    findings = arguments.findings(model, episodes)
    conversion = Conversion(evidence=evidence_of(findings))
    found = episodes_of(arguments, stage, findings, conversion)
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{path_of(arguments).name}.part"
    if arguments.to == DEEPEYES:
        write_prompts(_tasks_of(found, conversion), aside)
    elif arguments.to == OWN:
        save_tasks(_written(found, folder, aside, arguments, stage, conversion), folder / "tasks")
        RunDirectory(folder).write_start(
            convert=arguments, episodes=episodes,
            evaluation={"dataset_name": str(folder / "tasks"), "output_dir": str(folder)},
        )  # fmt: skip
    else:
        deque(_written(found, folder, aside, arguments, stage, conversion), maxlen=0)
    if not conversion.num_written:
        aside.unlink()
        for name in ("tasks", "images"):
            shutil.rmtree(folder / name, ignore_errors=True)
        raise TraceError(f"{conversion.table()}\nno trace is left")
    aside.replace(path_of(arguments))
    dropped = [{"trace": number, "reason": reason} for number, reason in conversion.dropped.items()]
    (folder / "dropped.jsonl").write_text("".join(json.dumps(line) + "\n" for line in dropped))
    return conversion


def _tasks_of(found: Iterator[tuple[int, Episode]], conversion: Conversion) -> Iterator[Task]:
    for _, episode in found:
        conversion.num_written += 1
        yield episode.task


def path_of(arguments: ConvertArguments) -> Path:
    """The file that is written."""
    name = FILE_NAME if arguments.to == DEEPEYES else WRITERS[arguments.to].file_name
    return Path(arguments.output_dir) / name


def _written(
    found: Iterator[tuple[int, Episode]], folder: Path, path: Path, arguments: ConvertArguments, stage: Stage,
    conversion: Conversion,
) -> Iterator[Task]:  # fmt: skip
    """Writes the episodes as they come. Returns their tasks."""
    writer = WRITERS[arguments.to]
    tools = list(tools_of(stage.make_environment()).values())
    with path.open("w") as file:
        for number, episode in found:
            try:
                row = written(episode, folder, writer, frame=stage.frame, name=str(number), tools=tools)
            except ValueError as error:
                conversion.dropped[number] = str(error)
                continue
            before = ("[\n" if not conversion.num_written else ",\n") if writer.is_list else ""
            file.write(f"{before}{json.dumps(row, ensure_ascii=False)}{'' if writer.is_list else chr(10)}")
            if arguments.to == OWN:
                kept = replace(episode, tokens=None)
                append(folder / SAMPLES, [Sample.of(kept, family=episode.task.family, score=1.0, why="converted",
                                                    task_hash=fingerprint(episode.task))])  # fmt: skip
            conversion.num_written += 1
            yield episode.task
        file.write("\n]\n" if writer.is_list and conversion.num_written else "")


def main() -> None:
    sys.argv[1:] = with_names(sys.argv[1:], "--dataset_name", "--output_dir")
    arguments, episodes = parse((ConvertArguments, EpisodeArguments), description=__doc__)
    try:
        path = file_of(arguments.dataset_name)
        source = path if path.exists() else arguments.dataset_name
        folder, rows = read_rows(source, split=arguments.dataset_split)
        first = next(rows, {})
        if is_prompt(first):
            if arguments.to != OWN:
                raise TraceError("prompts without replies become tasks, whatever --to says: leave it out")
            rows = islice(chain([first], tqdm(rows, desc="tasks")), arguments.max_traces)
            refuse_full_folder(Path(arguments.output_dir))
            of_prompts = map(partial(task_row, strip=arguments.stripped), rows)
            tasks = to_tasks(
                of_prompts, source=str(source), folder=Path(arguments.image_dir or folder), skip_bad_rows=True
            )
            save_tasks(tasks, Path(arguments.output_dir))
            print(f"{len(tasks)} prompts without traces became tasks: {Path(arguments.output_dir) / 'tasks.jsonl'}")
            return
        conversion = convert(arguments, episodes)
    except (FileNotFoundError, TraceError, TaskError) as error:
        raise SystemExit(str(error)) from error
    print(conversion.table())
    print(f"written to {path_of(arguments)}")


if __name__ == "__main__":
    main()
