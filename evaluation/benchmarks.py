"""Public benchmarks as tasks, from their own files: `fovea eval CHECKPOINT --benchmark vstar`.

The files are found in a local folder (or are one file), or fetched from the benchmark's hub id; either way the same
code reads them. A task keeps its benchmark's name, by which `evaluation.scoring` finds the published rules, and its
category as family.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation import layouts
from fovea.data.sources import BROKEN, READERS, Row, read_file
from fovea.data.task_files import BAD_ROW, to_tasks
from fovea.tasks import Task


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: its hub id, its files of questions, and the function that turns a row into a task's columns.

    `columns` gives None for a row that is left out. `averaged_within` names a metadata entry: scores are averaged
    within its values first, then across them.
    """

    hub_id: str
    files: tuple[str, ...]
    columns: Callable[[Row, Path], dict[str, Any] | None]
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
    """The folder of the files: `source` if it exists, else a copy from the hub."""
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
    num_unanswered = 0
    file_rows = ((path, row) for path in files for row in read_file(path))
    for number, (file, row) in enumerate(file_rows):
        try:
            columns = dict(row) if BROKEN in row else benchmark.columns(row, file)
            if columns is None:
                num_unanswered += 1
                continue
        except BAD_ROW as error:
            yield {BROKEN: f"not in the layout of {name}: {type(error).__name__} {error}"}
            continue
        columns.setdefault("id", f"{name}-{number}")
        columns["metadata"] = {"benchmark": name, **columns.pop("asked", {}), **columns.get("metadata", {})}
        yield columns
    if num_unanswered:
        print(f"{num_unanswered} rows of {name} have no answer, and are left out", file=sys.stderr)


_PARQUET = ("**/*.parquet", "**/*.jsonl", "**/*.json")
BENCHMARKS: Mapping[str, Benchmark] = {
    "vstar": Benchmark("craigwu/vstar_bench", ("test_questions.jsonl", "**/*.parquet"), layouts.vstar),
    "hr_bench_4k": Benchmark(
        "DreamMr/HR-Bench", ("**/hr_bench_4k.tsv", "**/hr_bench_4k*.parquet"), layouts.hr_bench, "cycle"
    ),
    "hr_bench_8k": Benchmark(
        "DreamMr/HR-Bench", ("**/hr_bench_8k.tsv", "**/hr_bench_8k*.parquet"), layouts.hr_bench, "cycle"
    ),
    "mme_realworld": Benchmark(
        "yifanzhang114/MME-RealWorld-lmms-eval", ("**/*.parquet", "**/*.tsv"), layouts.mme_realworld
    ),
    "mme_realworld_lite": Benchmark(
        "yifanzhang114/MME-RealWorld-lite-lmms-eval", ("**/*.parquet", "**/*.tsv"), layouts.mme_realworld
    ),
    "muirbench": Benchmark("MUIRBENCH/MUIRBENCH", _PARQUET, layouts.muirbench),
    "blink": Benchmark("BLINK-Benchmark/BLINK", ("**/val*.parquet", *_PARQUET), layouts.blink),
    "nlvr2": Benchmark(
        "TIGER-Lab/NLVR2", ("**/test-*.parquet", "**/balanced_test_public*.parquet", *_PARQUET), layouts.nlvr2
    ),
    "mantis": Benchmark("TIGER-Lab/Mantis-Eval", ("**/test*.parquet", *_PARQUET), layouts.mantis),
    "mirb": Benchmark("VLLMs/MIRB-hf", _PARQUET, layouts.mirb),
    "mmiu": Benchmark("FanqingM/MMIU-Benchmark", _PARQUET, layouts.mmiu),
    "mimic": Benchmark("anurag4446/mimic", _PARQUET, layouts.mimic, averaged_within="family"),
    "mvbench": Benchmark("OpenGVLab/MVBench", ("json/*.json", "**/*.json"), layouts.mvbench),
}
"""The benchmarks by name."""
