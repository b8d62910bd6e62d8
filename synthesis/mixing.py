"""Mixes traces or tasks of several sources: `fovea data mix A B --weights 2 1 --output_dir OUT`.

A and B are folders with traces.jsonl or tasks.jsonl, or such files. A trace that says the same of the same picture as
one before it is a duplicate, as is a task that asks the same of it. Pictures of `--against FILE…`, the benchmarks that
you evaluate on, are kept out by perceptual hash, however they were resized or compressed. `--held_out 0.1` puts a tenth
of the pictures, with all rows that show them, into OUT/held_out. What was dropped is counted.

`--weights` are shares of the mixture; it becomes as large as they allow without a row twice. Images are linked.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from environments.traces import TraceError, image_sources
from fovea.data.columns import TaskError
from fovea.data.task_files import tasks_from
from fovea.images import ImageError, image_hash, open_image
from fovea.placeholders import parts_of
from synthesis.duplicates import HashTable, perceptual_hash
from synthesis.joining import linked

NAMES = {"messages": "traces.jsonl", "question": "tasks.jsonl"}
"""The file of a kind of rows, by the column that tells it."""


class Place(NamedTuple):
    """Where a row stands: its source, and the byte at which its line begins."""

    source: int
    offset: int


@dataclass
class Source:
    """A file of traces or tasks, and where the rows of it stand that are kept."""

    path: Path
    name: str | None = None
    """traces.jsonl or tasks.jsonl, by what its rows are."""
    sides: tuple[list[Place], list[Place]] = field(default_factory=lambda: ([], []))
    """The rows for training, and those that are held out."""
    dropped: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, name: str) -> Source:
        """The source of a folder or a file.

        Raises:
            FileNotFoundError: where there is none.
        """
        path = Path(name)
        found = [path / one for one in NAMES.values() if (path / one).is_file()] if path.is_dir() else [path]
        if not found or not found[0].is_file() or found[0].suffix != ".jsonl":
            raise FileNotFoundError(
                f"no traces.jsonl or tasks.jsonl at {name}: `fovea data convert` writes one of other formats"
            )
        return cls(found[0])

    def rows(self) -> Iterator[tuple[int, dict]]:
        """The rows with the bytes at which their lines begin.

        Raises:
            TraceError: for a line that is no row, or of another kind than those before.
        """
        with self.path.open("rb") as file:
            offset = 0
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield offset, self._row(line, number)
                offset += len(line)

    def _row(self, line: bytes, number: int) -> dict:
        try:
            row = json.loads(line)
        except ValueError as error:
            raise TraceError(f"{self.path} line {number}: not JSON: {error}") from None
        kind = next((name for name in NAMES if isinstance(row, dict) and name in row), None)
        if kind is None or self.name not in (None, NAMES[kind]):
            raise TraceError(f"{self.path} line {number}: it is no row of {self.name or 'traces or tasks'}")
        self.name = NAMES[kind]
        return row


def shown_first(row: Mapping[str, Any]) -> list[str]:
    """The pictures that a row asks about, its crops left out."""
    images = list(row.get("images") or ())
    if "messages" not in row:
        return images
    count = 0
    for message in row["messages"]:
        if message["role"] == "assistant":
            break
        content = message["content"]
        blocks = content if isinstance(content, list) else []
        count += len(parts_of(content)) - 1 if isinstance(content, str) else sum(b["type"] == "image" for b in blocks)
    return images[:count]


def words_of(row: Mapping[str, Any]) -> str:
    """What makes a row another one on the same pictures: all that a trace says, what a task asks."""
    said = row["question"] if "question" in row else [message["content"] for message in row["messages"]]
    return " ".join(json.dumps(said).split())


@dataclass
class Sieve:
    """Decides which rows are kept. Of each picture it keeps a hash, of each question another."""

    forbidden: HashTable
    held_out_share: float
    per_image: int | None
    seed: int
    _known: set[bytes] = field(default_factory=set)
    _of_picture: Counter[bytes] = field(default_factory=Counter)
    _sides: HashTable = field(default_factory=HashTable)
    """Pictures, with whether they are held out."""

    def judge(self, source: Source, place: Place, row: Mapping[str, Any]) -> None:
        """Puts a row where it belongs."""
        try:
            sources = image_sources(shown_first(row), source.path.parent)
            pictures = [open_image(image) for image in sources]
        except (ImageError, TraceError):
            source.dropped["pictures that cannot be opened"] += 1
            return
        looks = list(map(perceptual_hash, pictures))
        side = self._side(looks)
        names = "\n".join(map(image_hash, pictures))
        group, key = (hashlib.sha256(text.encode()).digest() for text in (names, f"{names}\n{words_of(row)}"))
        if any(next(self.forbidden.owners_of(look), None) is not None for look in looks):
            source.dropped["pictures of --against"] += 1
        elif key in self._known:
            source.dropped["duplicates"] += 1
        elif pictures and self.per_image is not None and self._of_picture[group] >= self.per_image:
            source.dropped["beyond --per_image"] += 1
        elif side is None:
            source.dropped["pictures of both sides"] += 1
        else:
            self._known.add(key)
            self._of_picture[group] += 1
            source.sides[side].append(place)

    def _side(self, looks: Sequence[np.ndarray]) -> int | None:
        """1 for a row that is held out, 0 for one that is not, None if some of its pictures are and others are not.

        A picture goes where one went that looks like it, else by chance, which its hash and the seed draw.
        """
        if not self.held_out_share or not looks:
            return 0
        known = [next(self._sides.owners_of(look), None) for look in looks]
        sides = {side for side in known if side is not None}
        if len(sides) > 1:
            return None
        digest = hashlib.sha256(f"{self.seed} {looks[0].tobytes().hex()}".encode()).digest()
        side = sides.pop() if sides else int(int.from_bytes(digest[:4], "big") / 2**32 < self.held_out_share)
        for look, is_known in zip(looks, known, strict=True):
            if is_known is None:
                self._sides.add(look, side)
        return side


def counts_of(sizes: Sequence[int], weights: Sequence[float] | None) -> list[int]:
    """How many rows of each source a mixture has: all, or as many as weights allow without a row twice.

    >>> counts_of([100, 30], [2, 1]), counts_of([100, 30], None)
    ([60, 30], [100, 30])
    """
    if weights is None:
        return list(sizes)
    scale = min((size / weight for size, weight in zip(sizes, weights, strict=True) if weight), default=0)
    return [min(size, round(scale * weight)) for size, weight in zip(sizes, weights, strict=True)]


def write(sources: Sequence[Source], places: Sequence[Place], folder: Path, name: str) -> None:
    """Writes the rows at these places, in this order, with links to their images."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    aside, used = folder / f".{name}.part", Counter[str]()
    with ExitStack() as stack:
        files = [stack.enter_context(source.path.open("rb")) for source in sources]
        out = stack.enter_context(aside.open("w"))
        for number, place in enumerate(tqdm(places, desc=str(folder))):
            files[place.source].seek(place.offset)
            row = json.loads(files[place.source].readline())
            images = image_sources(row.get("images"), sources[place.source].path.parent)
            paths = [put(image, folder, f"{number}-{index}") for index, image in enumerate(images)]
            identity = str(row.get("id", number))
            used[identity] += 1
            row |= {"images": paths, "id": identity if used[identity] == 1 else f"{identity}#{used[identity]}"}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    aside.replace(folder / name)


def put(image: Any, folder: Path, name: str) -> str:
    """Links or writes an image below a folder; its path from there."""
    path = f"images/{name}{Path(image).suffix if isinstance(image, str) else '.img'}"
    if isinstance(image, str):
        linked(Path(image), folder / path)
    else:
        (folder / path).write_bytes(image)
    return path


def against(names: Sequence[str]) -> HashTable:
    """The pictures of benchmark files."""
    table = HashTable()
    for name in names:
        for task in tqdm(tasks_from(name), desc=f"pictures of {Path(name).name}"):
            for image in task.images:
                table.add(perceptual_hash(open_image(image)), 0)
    return table


def mix(
    names: Sequence[str],
    folder: Path,
    *,
    weights: Sequence[float] | None = None,
    forbidden: Sequence[str] = (),
    held_out: float = 0.0,
    per_image: int | None = None,
    seed: int = 0,
) -> str:
    """Writes the mixture to `folder`; what was kept and dropped of each source, as a table.

    Raises:
        FileNotFoundError: for a source that is not there.
        ValueError: for weights that are not one for each source, or sources of traces and of tasks together.
    """
    sources = [Source.of(name) for name in names]
    if weights is not None and (len(weights) != len(sources) or min(weights) < 0 or not sum(weights)):
        raise ValueError(f"--weights {list(weights)} for {len(sources)} sources: give one, not below 0, for each")
    if not 0 <= held_out < 1:
        raise ValueError(f"--held_out {held_out} is a share of the pictures: from 0 to below 1")
    sieve = Sieve(against(forbidden), held_out, per_image, seed)
    for number, source in enumerate(sources):
        for offset, row in tqdm(source.rows(), desc=str(source.path)):
            sieve.judge(source, Place(number, offset), row)
    kinds = sorted({source.name for source in sources if source.name})
    if len(kinds) != 1:
        raise ValueError(f"the sources hold {' and '.join(kinds) or 'nothing'}: mix traces alone, and tasks alone")
    rng = np.random.default_rng(seed)
    taken = [counts_of([len(source.sides[side]) for source in sources], weights) for side in (0, 1)]
    chosen: list[list[Place]] = [[], []]
    for side, counts in enumerate(taken):
        for source, count in zip(sources, counts, strict=True):
            pool = source.sides[side]
            chosen[side] += [pool[place] for place in np.sort(rng.permutation(len(pool))[:count])]
    table = _table(sources, taken)
    if not chosen[0]:
        raise ValueError(f"{table}\nnothing is left to mix")
    write(sources, [chosen[0][place] for place in rng.permutation(len(chosen[0]))], folder, kinds[0])
    if held_out:
        write(sources, chosen[1], folder / "held_out", kinds[0])
    return table


def _table(sources: Sequence[Source], taken: Sequence[Sequence[int]]) -> str:
    lines = ["\n| source | mixed | held out | left over | dropped |", "|---|---|---|---|---|"]
    for number, source in enumerate(sources):
        mixed, held_out = (counts[number] for counts in taken)
        left = sum(map(len, source.sides)) - mixed - held_out
        dropped = ", ".join(f"{count} {reason}" for reason, count in source.dropped.most_common()) or "0"
        lines.append(f"| {source.path} | {mixed} | {held_out} | {left} | {dropped} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="folders or files of traces, or of tasks")
    parser.add_argument("--output_dir", required=True, type=Path, help="where the mixture goes")
    parser.add_argument("--weights", nargs="+", type=float, help="the share of each source (default: all of each)")
    parser.add_argument("--against", nargs="+", default=[], metavar="FILE", help="tasks whose pictures are kept out")
    parser.add_argument("--held_out", type=float, default=0.0, help="share of the pictures that are held out")
    parser.add_argument("--per_image", type=int, help="rows of one picture at most")
    parser.add_argument("--seed", type=int, default=0, help="of what is chosen, held out, and its order")
    args = parser.parse_args()
    try:
        print(mix(args.sources, args.output_dir, weights=args.weights, forbidden=args.against,
                  held_out=args.held_out, per_image=args.per_image, seed=args.seed))  # fmt: skip
    except (FileNotFoundError, ValueError, TaskError) as error:
        raise SystemExit(str(error)) from error
    print(f"written to {args.output_dir}")


if __name__ == "__main__":
    main()
