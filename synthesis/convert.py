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
from environments.traces import TraceError, file_of
from fovea.arguments import PixelArguments
from fovea.boxes import Frame
from fovea.config import ConfigError, parse
from fovea.data.columns import TaskError
from fovea.data.identity import fingerprint
from fovea.data.sources import read_rows
from fovea.data.task_files import BAD_ROW, save_tasks, to_tasks
from fovea.episodes import Episode
from fovea.images import PixelLimits
from fovea.models.loading import Model, load_outline
from fovea.runs.directory import RunDirectory
from fovea.runs.records import SAMPLES, Sample, append
from fovea.tasks import Task
from synthesis.arguments import for_one_pass, refuse_own_folder, with_names
from synthesis.formats.conversion import Conversion
from synthesis.formats.frames import cutting_of, found_readings
from synthesis.formats.prompts import is_prompt, task_row, write_prompts
from synthesis.formats.reading import OWN, ForeignTrace, numbered_foreign_traces
from synthesis.formats.replaying import Stage, replayed
from synthesis.formats.wording import Changes
from synthesis.formats.writing import WRITERS, written

DEEPEYES = "deepeyes"
"""A format of prompts: of traces only their tasks are written."""
NUM_JUDGED = 300
"""Traces by which the frame of a file is found out."""


@dataclass(kw_only=True)
class ConvertArguments(PixelArguments):
    """What is converted, for which model, into what."""

    dataset_name: str = field(metadata={"help": "Traces of any format: file, folder, saved dataset or hub id."})
    output_dir: str = field(metadata={"help": "Folder for the converted traces."})
    to: str = field(default=OWN, metadata={"help": "What to write: fovea, or the name of another format."})
    model_name_or_path: str = field(
        default="tiny", metadata={"help": "The model to be trained: its frame, its processor's limits, its tool."}
    )
    image_dir: str | None = field(
        default=None, metadata={"help": "Where relative image paths start (default: the folder of the file)."}
    )
    dataset_split: str | None = field(default=None, metadata={"help": "Split of a saved or hub dataset."})
    source_frame: str | None = field(
        default=None,
        metadata={
            "help": "Frame of the file's boxes, where the crops behind them should not decide.",
            "choices": [frame.value for frame in Frame],
        },
    )
    source_padding: float | None = field(
        default=None, metadata={"help": "By what the file's tool enlarged boxes, where the crops should not decide."}
    )
    source_min_pixels: int | None = field(
        default=None, metadata={"help": "Least pixels of first views for the file's model (default: as for yours)."}
    )
    source_max_pixels: int | None = field(
        default=None, metadata={"help": "Most pixels of first views for the file's model (default: as for yours)."}
    )
    source_factor: int | None = field(
        default=None, metadata={"help": "Pixels to which its sides were rounded: 28 for Qwen2.5-VL (default: yours)."}
    )
    zoom_tools: list[str] = field(
        default_factory=list, metadata={"help": "Other names under which the file calls its zoom tool."}
    )
    strip: str | None = field(
        default=None, metadata={"help": "Regular expression: what it matches is taken out of questions."}
    )
    max_traces: int | None = field(default=None, metadata={"help": "Convert so many traces at most."})

    def __post_init__(self) -> None:
        if self.to not in (*WRITERS, DEEPEYES):
            raise ConfigError(f"--to {self.to!r} is no format: write one of {', '.join((*WRITERS, DEEPEYES))}")
        try:
            re.compile(self.strip or "")
        except re.error as error:
            raise ConfigError(f"--strip {self.strip!r} is no regular expression: {error}") from None

    @property
    def frame(self) -> Frame | None:
        """The frame that was named for the boxes of the file."""
        return Frame(self.source_frame) if self.source_frame else None

    def traces(self) -> Iterator[tuple[int, ForeignTrace | TraceError]]:
        """The traces of the file with their numbers."""
        found = numbered_foreign_traces(
            self.dataset_name, zoom_tools=self.zoom_tools, split=self.dataset_split, image_dir=self.image_dir
        )
        return islice(found, self.max_traces)

    def stage(self, model: Model, episodes: EpisodeArguments) -> Stage:
        """Where the traces are played again."""
        limits = model.limits
        seen = PixelLimits(self.source_min_pixels or limits.min_pixels, self.source_max_pixels or limits.max_pixels,
                           self.source_factor or limits.factor)  # fmt: skip
        strip = re.compile(self.strip, re.DOTALL) if self.strip else None
        return Stage(environment_factory(episodes, model), box_frame(episodes, model), seen, strip)


def episodes_of(
    arguments: ConvertArguments, stage: Stage, padding: float, conversion: Conversion
) -> Iterator[tuple[int, Episode]]:
    """The traces as episodes of the environment, with their numbers; what becomes none is kept in `conversion`."""
    first = (trace for _, trace in tqdm(islice(arguments.traces(), NUM_JUDGED), desc="frames", leave=False))
    findings = found_readings(
        (trace for trace in first if not isinstance(trace, TraceError)), stage.source_limits, stage.frame,
        frames=tuple(Frame) if arguments.frame is None else (arguments.frame,),
        paddings=(arguments.source_padding,) if arguments.source_padding else (1.0, 1.5, padding),
    )  # fmt: skip
    conversion.evidence = {name: finding.words() for name, finding in findings.items() if finding.evidence.num_zooms}
    names: set[str] = set()
    for number, foreign in tqdm(arguments.traces(), desc="traces"):
        if isinstance(foreign, TraceError):
            conversion.dropped[number] = str(foreign)
            continue
        conversion.formats[foreign.format] += 1
        name = str(foreign.record["id"] if foreign.record["id"] is not None else number)
        name = name if name not in names else f"{name}#{number}"
        names.add(name)
        changes = Changes()
        try:
            cutting = cutting_of(foreign, findings.get(foreign.format), arguments.frame, changes)
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
    stage, conversion = arguments.stage(model, for_one_pass(episodes)), Conversion()
    found = episodes_of(arguments, stage, episodes.crop_padding, conversion)
    folder = Path(arguments.output_dir)
    refuse_own_folder(folder, [file_of(arguments.dataset_name)])
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{path_of(arguments).name}.part"
    if arguments.to == DEEPEYES:
        write_prompts(_tasks_of(found, conversion), aside)
    elif arguments.to == OWN:
        (folder / SAMPLES).unlink(missing_ok=True)
        save_tasks(_written(found, folder, aside, arguments, stage, conversion), folder / "tasks")
        RunDirectory(folder).write_start(
            convert=arguments, episodes=episodes,
            evaluation={"dataset_name": str(folder / "tasks"), "output_dir": str(folder)},
        )  # fmt: skip
    else:
        deque(_written(found, folder, aside, arguments, stage, conversion), maxlen=0)
    if not conversion.num_written:
        aside.unlink()
        raise TraceError(f"{conversion.table()}\nno trace is left")
    aside.replace(path_of(arguments))
    dropped = [{"trace": number, "reason": reason} for number, reason in conversion.dropped.items()]
    (folder / "dropped.jsonl").write_text("".join(json.dumps(line) + "\n" for line in dropped))
    return conversion


def _tasks_of(found: Iterator[tuple[int, Episode]], conversion: Conversion) -> Iterator[Task]:
    for _, episode in found:
        conversion.num_written += 1
        yield episode.task


LISTS = ("mini_o3", "pixel_reasoner")
"""Formats whose files are one JSON list."""


def path_of(arguments: ConvertArguments) -> Path:
    """The file that is written."""
    names = {DEEPEYES: "prompts.parquet", **dict.fromkeys(LISTS, "traces.json")}
    return Path(arguments.output_dir) / names.get(arguments.to, "traces.jsonl")


def _written(
    found: Iterator[tuple[int, Episode]], folder: Path, path: Path, arguments: ConvertArguments, stage: Stage,
    conversion: Conversion,
) -> Iterator[Task]:  # fmt: skip
    """Writes the episodes as they come; their tasks."""
    is_list = arguments.to in LISTS
    with path.open("w") as file:
        for number, episode in found:
            try:
                row = written(episode, folder, WRITERS[arguments.to], frame=stage.frame, name=str(number))
            except ValueError as error:
                conversion.dropped[number] = str(error)
                continue
            before = ("[\n" if not conversion.num_written else ",\n") if is_list else ""
            file.write(f"{before}{json.dumps(row, ensure_ascii=False)}{'' if is_list else chr(10)}")
            if arguments.to == OWN:
                kept = replace(episode, tokens=None)
                append(folder / SAMPLES, [Sample.of(kept, family=episode.task.family, score=1.0, why="converted",
                                                    task_hash=fingerprint(episode.task))])  # fmt: skip
            conversion.num_written += 1
            yield episode.task
        file.write("\n]\n" if is_list and conversion.num_written else "")


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
            strip = re.compile(arguments.strip, re.DOTALL) if arguments.strip else None
            of_prompts = map(partial(task_row, strip=strip), rows)
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
