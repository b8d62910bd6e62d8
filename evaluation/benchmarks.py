"""Public benchmarks as tasks, from their own files: `fovea eval CHECKPOINT --benchmark vstar`.

The files are found in a local folder (or are one file), or fetched from the benchmark's hub id; either way the same
code reads them. A task keeps its benchmark's name, by which `evaluation.scoring` finds the published rules, and its
category as family.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from evaluation.options import option_lines, plain_options, split_options
from fovea.data.sources import BROKEN, READERS, Row, read_file
from fovea.data.task_files import BAD_ROW, to_tasks
from fovea.placeholders import PLACEHOLDER
from fovea.tasks import Task

NUM_FRAMES = 8
"""Frames shown of a video: evenly spaced, as most harnesses do for MVBench."""


@dataclass(frozen=True)
class Benchmark:
    """Where a benchmark lives, which of its files hold questions, and how one of their rows becomes a task's columns.

    `averaged_within` names a metadata entry: scores are averaged within its values first, then across them.
    """

    hub_id: str
    files: tuple[str, ...]
    columns: Callable[[Row, Path], dict[str, Any]]
    averaged_within: str | None = None


def load_benchmark(
    name: str, source: str | Path | None = None, *, skip_bad_rows: bool = False, limit: int | None = None
) -> list[Task]:
    """The tasks of a benchmark from a folder or file in its public layout, else from the hub.

    Raises:
        ValueError: for an unknown name.
        FileNotFoundError: if `source` holds no file of the benchmark.
        TaskError: on the first row that is not in its layout, unless `skip_bad_rows`.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"benchmark {name!r} is unknown: use one of {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    folder = _folder(benchmark, source)
    files = [folder] if folder.is_file() else _files(benchmark, folder)
    if not files:
        raise FileNotFoundError(f"{folder} holds none of {', '.join(benchmark.files)}, the files of {name}")
    folder = folder.parent if folder.is_file() else folder
    rows = _rows(name, benchmark, files)
    return to_tasks(rows, source=name, folder=folder, skip_bad_rows=skip_bad_rows, limit=limit)


def _folder(benchmark: Benchmark, source: str | Path | None) -> Path:
    """Where the files are: `source` if it exists, else a copy of the hub's."""
    if source is not None and Path(source).exists():
        return Path(source)
    if source is not None and Path(source).suffix in READERS:
        raise FileNotFoundError(f"no benchmark at {source}: give its folder, one of its files, or a hub id")
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(source or benchmark.hub_id), repo_type="dataset"))


def _files(benchmark: Benchmark, folder: Path) -> list[Path]:
    """Files of the first pattern that finds some."""
    return next((paths for pattern in benchmark.files if (paths := sorted(folder.glob(pattern)))), [])


def _rows(name: str, benchmark: Benchmark, files: list[Path]) -> Iterator[Row]:
    """The rows in our columns. Ids are the benchmark's own or, without any, positions, bad rows included."""
    file_rows = ((path, row) for path in files for row in read_file(path))
    for number, (file, row) in enumerate(file_rows):
        try:
            columns = dict(row) if BROKEN in row else benchmark.columns(row, file)
        except BAD_ROW as error:
            yield {BROKEN: f"not in the layout of {name}: {type(error).__name__} {error}"}
            continue
        columns.setdefault("id", f"{name}-{number}")
        columns["metadata"] = {"benchmark": name, **columns.get("metadata", {})}
        yield columns


def _vstar(row: Row, file: Path) -> dict[str, Any]:
    question, options = split_options(row["text"])
    image = file.parent / row["image"]
    boxes = []
    if (annotation_file := image.with_suffix(".json")).exists():
        boxes = [
            [x, y, x + width, y + height]
            for x, y, width, height in json.loads(annotation_file.read_text()).get("bbox", [])
        ]
    return {
        "id": f"vstar-{row['question_id']}",
        "images": [str(image)],
        "question": question,
        "choices": options,
        "answer": row["label"],
        "boxes": boxes,
        "metadata": {"family": row["category"]},
    }


def _hr_bench(row: Row, file: Path) -> dict[str, Any]:
    return {
        "id": f"{file.stem}-{row['index']}",
        "images": [row["image"]],
        "question": row["question"],
        "choices": [row[letter] for letter in "ABCD" if row.get(letter)],
        "answer": row["answer"],
        "metadata": {"family": row["category"], "cycle": str(row["cycle_category"])},
    }


def _mme_realworld(row: Row, file: Path) -> dict[str, Any]:
    options = row.get("multi-choice options", row.get("options"))
    if isinstance(options, str):
        options = ast.literal_eval(options)
    return {
        "id": f"mme_realworld-{row['index']}",
        "images": [row.get("image") or row["bytes"]],
        "question": row["question"],
        "choices": plain_options([option.replace("（", "(").replace("）", ")") for option in options]),
        "answer": row["answer"],
        "metadata": {"family": row["category"], "subfamily": row["l2-category"]},
    }


def _muirbench(row: Row, file: Path) -> dict[str, Any]:
    """Options may be images, by the placeholder of the question's: they stand in the question then."""
    options, question = list(row["options"]), row["question"]
    if any(PLACEHOLDER in option for option in options):
        lettered = (f"({letter}) {option}" for letter, option in zip(ascii_uppercase, options, strict=False))
        question, options = "\n".join([question, *lettered]), []
    return {
        "id": f"muirbench-{row['idx']}",
        "images": row["image_list"],
        "question": question,
        "choices": options,
        "kind": "choice",
        "answer": row["answer"],
        "metadata": {"family": row["task"]},
    }


def _blink(row: Row, file: Path) -> dict[str, Any]:
    images = [row[name] for name in sorted(row) if re.fullmatch(r"image_\d+", name) and row[name] is not None]
    return {
        "id": row["idx"],
        "images": images,
        "question": row["question"],
        "choices": row["choices"],
        "answer": row["answer"].strip("()"),
        "metadata": {"family": row["sub_task"]},
    }


def _mantis(row: Row, file: Path) -> dict[str, Any]:
    is_choice = row["question_type"] == "multi-choice"
    return {
        "id": f"mantis-{row['id']}",
        "images": row["images"],
        "question": row["question"],
        "choices": plain_options(list(row["options"])) if is_choice else [],
        "kind": "choice" if is_choice else "text",
        "answer": row["answer"],
        "metadata": {"family": row.get("category") or row["question_type"]},
    }


def _mirb(row: Row, file: Path) -> dict[str, Any]:
    return {
        "id": f"mirb-{row['subset']}-{row['question_id']}",
        "images": row["image_list"],
        "question": row["questions"],
        "kind": "choice" if row["answers"] in list("ABCDE") else None,
        "answer": row["answers"],
        "metadata": {"family": row["subset"]},
    }


def _mmiu(row: Row, file: Path) -> dict[str, Any]:
    options = row["options"]
    lines = options if isinstance(options, list) else option_lines(options)
    context = row.get("context") or ""
    return {
        "images": row["input_image_path"],
        "question": f"{context}\n{row['question']}".strip(),
        "choices": plain_options(lines),
        "answer": row["output"],
        "metadata": {"family": row["task"]},
    }


def _nlvr2(row: Row, file: Path) -> dict[str, Any]:
    return {
        "id": f"nlvr2-{row['id']}",
        "images": row["images"],
        "question": row["question"],
        "choices": plain_options(list(row["options"])),
        "answer": row["answer"],
    }


def _mvbench(row: Row, file: Path) -> dict[str, Any]:
    """Frames are those in a folder of the video's name below the benchmark's, wherever it lies: of a row with `start`
    and `end`, extract that part alone, and under a name of its own."""
    return {
        "images": _frames(file.parent.parent, Path(row["video"])),
        "question": row["question"],
        "choices": row["candidates"],
        "answer": ascii_uppercase[list(row["candidates"]).index(row["answer"])],
        "metadata": {"family": file.stem},
    }


def _frames(folder: Path, video: Path) -> list[str]:
    name = video.with_suffix("") if video.suffix in (".mp4", ".avi", ".webm", ".mkv") else video
    frame_folder = next((path for path in sorted(folder.glob(f"**/{name}")) if path.is_dir()), None)
    if frame_folder is None:
        raise ValueError(f"no folder of frames {name} below {folder}: extract the frames of {video} there (ffmpeg)")
    frames = [path for path in frame_folder.iterdir() if path.suffix in (".jpg", ".jpeg", ".png")]
    frames.sort(key=lambda path: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)])
    if not frames:
        raise ValueError(f"{frame_folder} holds no frames (.jpg, .png)")
    num_frames = min(NUM_FRAMES, len(frames))
    return [str(frames[int((index + 0.5) * len(frames) / num_frames)]) for index in range(num_frames)]


def _mimic(row: Row, file: Path) -> dict[str, Any]:
    """The released files have one folder a task; the answer to a list is one text."""
    named = f"{file.parent.name} {file.stem} {row['task']}".lower()
    kind = next((kind for kind in ("counting", "listing", "common", "odd") if kind in named), None)
    if kind is None:
        raise ValueError(f"{named!r} names none of MIMIC's tasks, counting, listing, common and oddone")
    truth = row["gt"]
    return {
        "id": f"mimic-{kind}-{row['idx'] if row.get('idx') is not None else row['id']}",
        "images": row["images"],
        "question": row["question"],
        "kind": {"counting": "number", "listing": "list"}.get(kind, "text"),
        "answer": str(truth).split(", ") if kind == "listing" else truth,
        "metadata": {"family": kind, "subfamily": row["task"]},
    }


_PARQUET = ("**/*.parquet", "**/*.jsonl", "**/*.json")
BENCHMARKS: Mapping[str, Benchmark] = {
    "vstar": Benchmark("craigwu/vstar_bench", ("test_questions.jsonl",), _vstar),
    "hr_bench_4k": Benchmark("DreamMr/HR-Bench", ("**/hr_bench_4k.tsv", "**/hr_bench_4k*.parquet"), _hr_bench, "cycle"),
    "hr_bench_8k": Benchmark("DreamMr/HR-Bench", ("**/hr_bench_8k.tsv", "**/hr_bench_8k*.parquet"), _hr_bench, "cycle"),
    "mme_realworld": Benchmark("yifanzhang114/MME-RealWorld-lmms-eval", ("**/*.parquet", "**/*.tsv"), _mme_realworld),
    "mme_realworld_lite": Benchmark(
        "yifanzhang114/MME-RealWorld-lite-lmms-eval", ("**/*.parquet", "**/*.tsv"), _mme_realworld
    ),
    "muirbench": Benchmark("MUIRBENCH/MUIRBENCH", _PARQUET, _muirbench),
    "blink": Benchmark("BLINK-Benchmark/BLINK", ("**/val*.parquet", *_PARQUET), _blink),
    "nlvr2": Benchmark("lmms-lab/NLVR2", _PARQUET, _nlvr2),
    "mantis": Benchmark("TIGER-Lab/Mantis-Eval", ("**/test*.parquet", *_PARQUET), _mantis),
    "mirb": Benchmark("VLLMs/MIRB-hf", _PARQUET, _mirb),
    "mmiu": Benchmark("FanqingM/MMIU-Benchmark", _PARQUET, _mmiu),
    "mimic": Benchmark("anurag4446/mimic", _PARQUET, _mimic, averaged_within="family"),
    "mvbench": Benchmark("OpenGVLab/MVBench", ("json/*.json", "**/*.json"), _mvbench),
}
"""The benchmarks by name."""
