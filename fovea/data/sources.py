"""Raw rows of the files that people keep data in, images left where they are until they are shown."""

from __future__ import annotations

import base64
import csv
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fovea.data.columns import TaskError
from fovea.hub import leads_to_a_file

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

Row = Mapping[str, Any]

BROKEN = "__broken__"
"""The only column of a line that could not be read; its value says why."""

_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]{65,}")
"""An image in base64: unlike a path it has no dot. In VLMEvalKit's TSV files a shorter one names another row."""


@dataclass(frozen=True)
class StoredImage:
    """An image inside an Arrow table, its bytes read (memory-mapped) when they are asked for.

    `where` leads to it in its row: column, then fields and positions.
    """

    table: Any
    row: int
    where: tuple[str | int, ...]

    def read(self) -> bytes:
        """The encoded bytes."""
        content = self._scalar().as_py()
        return base64.b64decode(content) if isinstance(content, str) else content

    def view(self) -> memoryview:
        """The encoded bytes where they lie; only what is looked at is read from the disk. Base64 is decoded."""
        scalar = self._scalar()
        return memoryview(scalar.as_buffer() if "binary" in str(scalar.type) else self.read())

    def _scalar(self) -> Any:
        value = self.table[self.row : self.row + 1][self.where[0]][0]
        for step in self.where[1:]:
            value = value[step]
        return value["bytes"] if hasattr(value, "keys") else value


def read_rows(source: str | Path, *, split: str | None = None, config: str | None = None) -> tuple[Path, Iterator[Row]]:
    """The folder that relative image paths start from, and the rows of a file, a folder or a hub id.

    Raises:
        FileNotFoundError: if a file is named that is not there.
        TaskError: here or later, among the rows, for a source that cannot be read, or has several configurations or
            splits, of which none is named.
    """
    path = Path(source)
    if path.is_dir() and (path / "tasks.jsonl").exists():
        path = path / "tasks.jsonl"
    if path.suffix in READERS:
        return path.parent, read_file(path)
    return path, _arrow(read_dataset(source, split=split, config=config))


@contextmanager
def _reading(source: str | Path) -> Iterator[None]:
    """Whatever the readers of files raise for a source that they cannot read becomes a TaskError that names it."""
    try:
        yield
    except (TaskError, FileNotFoundError):
        raise
    except Exception as error:
        from datasets.exceptions import DatasetsError

        if not isinstance(error, (OSError, ValueError, DatasetsError)):
            raise
        cause = error.__cause__ or error
        cure = "; save it as UTF-8" if isinstance(cause, UnicodeDecodeError) else ""
        raise TaskError(f"{source} cannot be read: {cause}{cure}") from error


def read_dataset(source: str | Path, *, split: str | None = None, config: str | None = None) -> Dataset:
    """A JSON, JSONL or Parquet file (also a pattern or an address), a folder that `save_to_disk` wrote, or a hub id.

    Raises:
        FileNotFoundError: if a file is named that is not there.
        TaskError: for a source that cannot be read, or has several configurations or splits, of which none is named.
    """
    with _reading(source):
        return _dataset(source, split, config)


def _dataset(source: str | Path, split: str | None, config: str | None) -> Dataset:
    import datasets

    path = Path(source)
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    builder = {".json": "json", ".jsonl": "json", ".parquet": "parquet"}.get(suffix)
    if builder is not None:
        is_pattern = "://" in str(source) or "*" in str(source)
        return datasets.load_dataset(builder, data_files=str(source if is_pattern else existing(path)), split="train")
    if path.is_dir() and any((path / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
        dataset = datasets.load_from_disk(str(path))
        return _split_of(dataset, split, path) if isinstance(dataset, datasets.DatasetDict) else dataset
    if not path.exists() and leads_to_a_file(str(source)):
        raise FileNotFoundError(f"nothing is at {source}: name a file, a folder, or a hub id")
    try:
        return datasets.load_dataset(str(source), config, split=split or "train")
    except ValueError as error:
        if "Config name is missing" in str(error):
            raise ValueError(f"{error} Name it with --dataset_config.") from error
        raise


def _split_of(data: DatasetDict, split: str | None, path: Path) -> Dataset:
    """The split of a saved dataset: the one that is named, else `train`, else the only one."""
    name = split or ("train" if "train" in data else next(iter(data)))
    if name not in data or (split is None and name != "train" and len(data) > 1):
        raise ValueError(f"{path} has the splits {', '.join(data)}: name one with --dataset_split")
    if split is None and len(data) > 1:
        print(f"{path} has the splits {', '.join(data)}: {name} is read (--dataset_split names another)")
    return data[name]


def read_file(path: Path) -> Iterator[Row]:
    """The rows of one file.

    Raises:
        FileNotFoundError: if it is not there.
        TaskError: among the rows, if it cannot be read.
    """
    return _guarded(existing(path))


def _guarded(path: Path) -> Iterator[Row]:
    with _reading(path):
        yield from READERS[path.suffix](path)


def existing(path: Path) -> Path:
    """The path itself.

    Raises:
        FileNotFoundError: if nothing is there.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"no data at {path}: give a file ({', '.join(READERS)}), a folder of tasks, or a hub id"
        )
    return path


def _parquet(path: Path) -> Iterator[Row]:
    import datasets

    return _arrow(datasets.Dataset.from_parquet(str(path)))


def _separated(path: Path) -> Iterator[Row]:
    """Rows of a TSV or CSV with texts as values, None for an empty one. An image cell may name another row's image."""
    import datasets

    encoding = "utf-8-sig"
    with path.open(encoding=encoding) as file:
        head = file.readline()
        sign = "\t" if path.suffix == ".tsv" else max(",;\t", key=head.count)
        column_names = next(csv.reader([head], delimiter=sign))
    column_names = [name or f"Unnamed: {place}" for place, name in enumerate(column_names)]  # as pandas calls them
    features = datasets.Features({name: datasets.Value("string") for name in column_names})
    dataset = datasets.Dataset.from_csv(
        str(path), features=features, sep=sign, keep_default_na=False, encoding=encoding
    )
    row_numbers = {index: number for number, index in enumerate(dataset["index"])} if "index" in column_names else {}
    table = dataset.with_format("arrow")[:]
    for row in _arrow(dataset):
        values = {name.strip(): None if value == "" else value for name, value in row.items()}
        if values.get("image") in row_numbers:
            values["image"] = StoredImage(table, row_numbers[values["image"]], ("image",))
        yield values


def _arrow(dataset: Any) -> Iterator[Row]:
    """The rows of a dataset with their images left in its table, neither decoded nor copied."""
    table, features = dataset.with_format("arrow"), dataset.features
    for number in range(len(dataset)):
        row = table[number : number + 1].to_pylist()[0]
        yield {name: _left_in(table, number, _named(features[name], value), (name,)) for name, value in row.items()}


def _named(feature: Any, value: Any) -> Any:
    """The names of classes in place of their numbers, where a column has them."""
    if isinstance(value, list):
        inner = feature[0] if isinstance(feature, list) else getattr(feature, "feature", feature)
        return [_named(inner, item) for item in value]
    if isinstance(value, dict) and isinstance(feature, dict):
        return {name: _named(feature.get(name), item) for name, item in value.items()}
    names = getattr(feature, "names", None)  # of a ClassLabel
    return names[value] if names and isinstance(value, int) and 0 <= value < len(names) else value


def _left_in(table: Any, row: int, value: Any, where: tuple[str | int, ...]) -> Any:
    """The value with all bytes in it, and image dictionaries that hold some, replaced by a `StoredImage`."""
    is_text = isinstance(value, str) and where[0] in ("image", "bytes") and _BASE64.fullmatch(value)
    is_dict = isinstance(value, dict) and value.keys() == {"bytes", "path"} and value["bytes"]
    if isinstance(value, bytes) or is_text or is_dict:
        return StoredImage(table, row, where)
    if isinstance(value, list):
        return [_left_in(table, row, item, (*where, index)) for index, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    return {name: _left_in(table, row, item, (*where, name)) for name, item in value.items()}


def _jsonl(path: Path) -> Iterator[Row]:
    """The objects of a file with one a line, or of a JSON list that bears this name."""
    with path.open(encoding="utf-8-sig") as file:
        if file.read(1024).lstrip().startswith("["):
            file.seek(0)
            with suppress(ValueError, RecursionError):
                rows = json.load(file)
                if rows and all(isinstance(row, dict) for row in rows):
                    yield from rows
                    return
        file.seek(0)
        for line in file:
            if line.strip():
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield {BROKEN: f"not JSON: {error}"}


READERS = {".jsonl": _jsonl, ".json": _jsonl, ".tsv": _separated, ".csv": _separated, ".parquet": _parquet}
"""The reader of each kind of file, by its suffix."""
