"""The pictures that chains are made of: each once, by a hash of its pixels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fovea.config import ConfigError
from fovea.images import ImageError, image_hash, open_image
from fovea.jsonl import cut_torn_line, read_jsonl
from synthesis.duplicates import HashTable, perceptual_hash
from synthesis.side_by_side import side_by_side

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
HASHES = "pictures.jsonl"
"""The file that remembers pictures, so that the next command need not open them all."""


@dataclass(frozen=True)
class Pool:
    """Pictures by a hash of their pixels, and which were left out: that look like another one, or cannot be opened."""

    pictures: Mapping[str, Path]
    alike: tuple[Path, ...] = ()
    broken: tuple[Path, ...] = ()


def image_paths(source: str, output: Path) -> list[Path]:
    """The pictures in a folder and below it, or those that a text file names line by line, beside itself.

    Pictures of traces that were written to `output` are none of them. Of a folder it is printed how many files with
    other suffixes, and folders behind links, are left out.

    Raises:
        FileNotFoundError: where there is no such folder or file, or a picture that it names.
        ConfigError: if there are none.
    """
    where = Path(source)
    if where.is_dir():
        written = (output / "images").resolve()
        found = sorted(path for path in where.rglob("*") if not path.resolve().is_relative_to(written))
        paths = [path for path in found if path.suffix.lower() in SUFFIXES and not path.is_dir()]
        _tell_left_out(where, found)
    elif where.is_file():
        paths = [where.parent / line.strip() for line in where.read_text().splitlines() if line.strip()]
        if missing := [path for path in paths if not path.is_file()]:
            raise FileNotFoundError(f"{where} names {missing[0]}, which is not there")
    else:
        raise FileNotFoundError(f"no pictures at {source}: give a folder, or a text file with a path in each line")
    if not paths:
        raise ConfigError(f"{source} holds no pictures ({', '.join(SUFFIXES)})")
    return paths


def _tell_left_out(folder: Path, found: Sequence[Path]) -> None:
    """Prints how many of the entries below a folder are no pictures to be read, by suffix."""
    links = ["linked folder" for path in found if path.is_symlink() and path.is_dir()]
    files = [path.suffix.lower() or "no suffix" for path in found if not path.is_dir()]
    if left_out := Counter([*links, *(suffix for suffix in files if suffix not in SUFFIXES)]):
        print(f"left out of {folder}: {', '.join(f'{count} {kind}' for kind, count in sorted(left_out.items()))}")


def pool_of(paths: Sequence[Path], folder: Path, num_workers: int = 2) -> Pool:
    """The pictures at these paths, each once; their hashes are remembered in `folder`.

    A picture that looks like an earlier one is left out: the two would be connected for no reason. A link that leads
    nowhere is a broken picture.
    """
    remembered = folder / HASHES
    cut_torn_line(remembered)
    known = {_mark(row): row for row in read_jsonl(remembered)}
    marks = list(map(_mark_of, paths))
    missing = [mark for mark in marks if mark is not None and _mark(mark) not in known]
    with remembered.open("a") as file:
        for line in tqdm(side_by_side(_hashed, missing, num_workers), total=len(missing), desc="pictures"):
            file.write(json.dumps(line) + "\n")
            known[_mark(line)] = line
    pictures: dict[str, Path] = {}
    table, alike, broken = HashTable(), list[Path](), list[Path]()
    for number, (path, mark) in enumerate(zip(paths, marks, strict=True)):
        row = None if mark is None else known[_mark(mark)]
        if row is None or row["hash"] is None:
            broken.append(path)
            continue
        seen = np.frombuffer(bytes.fromhex(row["looks"]), dtype=np.uint8)
        if row["hash"] in pictures or any(True for _ in table.owners_of(seen)):
            alike.append(path)
            continue
        table.add(seen, number)
        pictures[row["hash"]] = path
    return Pool(pictures, tuple(alike), tuple(broken))


def _mark_of(path: Path) -> dict[str, Any] | None:
    """The key by which a picture is remembered; None for one that is not there."""
    try:
        status = path.stat()
        return {"path": str(path.resolve()), "size": status.st_size, "mtime": status.st_mtime_ns}
    except OSError:
        return None


def _mark(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["path"], row["size"], row["mtime"]


def _hashed(mark: dict[str, Any]) -> dict[str, Any]:
    try:
        image = open_image(mark["path"])
    except ImageError:
        return {**mark, "hash": None}
    return {**mark, "hash": image_hash(image), "looks": perceptual_hash(image).tobytes().hex()}
