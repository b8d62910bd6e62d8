"""Mixes traces or tasks of several sources: `fovea data mix A B --weights 2 1 --output_dir OUT`.

A and B are folders with traces.jsonl or tasks.jsonl, or such files. A trace that says the same of the same picture as
one before it is a duplicate, as is a task that asks the same of it. Pictures of `--against FILE…`, the benchmarks that
you evaluate on, are kept out by perceptual hash, also when they were resized or saved as JPEG. `--held_out 0.1` draws
each picture with this chance, and puts rows that show it, or one that looks like it, into OUT/held_out; rows of several
pictures that show others too are dropped. What was dropped is counted.

`--weights` are the shares of the sources in the mixture, which is as large as they allow without a row twice. They do
not touch what is held out. Images are linked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from environments.trace_files import image_sources
from fovea.commands import at_least_one, finite, from_zero, plain_parser
from fovea.data.columns import TaskError, parse_columns
from fovea.data.task_files import tasks_from
from fovea.images import open_image
from fovea.jsonl import replacing
from synthesis.arguments import refuse_full_folder, refuse_own_folder, unused
from synthesis.duplicates import HashTable, perceptual_hash
from synthesis.joining import linked
from synthesis.sieve import RowPlace, Sieve, Source, row_images


def sides_of(source: Source, sieve: Sieve, share: float, seed: int) -> tuple[list[RowPlace], list[RowPlace]]:
    """The rows for training and those held out; a row with pictures of both sides is dropped."""
    sides: tuple[list[RowPlace], list[RowPlace]] = ([], [])
    for place in source.kept:
        held_out = {sieve.is_held_out(picture, share, seed) for picture in place.pictures} if share else {False}
        if len(held_out) > 1:
            source.dropped["pictures of both sides"] += 1
        else:
            sides[held_out == {True}].append(place)
    return sides


def counts_of(sizes: Sequence[int], weights: Sequence[float] | None) -> list[int]:
    """The number of rows from each source: all, or as many as the weights allow without repeating a row.

    >>> counts_of([100, 30], [2, 1]), counts_of([100, 30], None)
    ([60, 30], [100, 30])
    """
    if weights is None:
        return list(sizes)
    scale = min((size / weight for size, weight in zip(sizes, weights, strict=True) if weight), default=0)
    return [min(size, round(scale * weight)) for size, weight in zip(sizes, weights, strict=True)]


def write(sources: Sequence[Source], places: Sequence[RowPlace], folder: Path, name: str) -> None:
    """Writes the rows at these places, in this order, with links to their images."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    used = set[str]()
    with ExitStack() as stack:
        files = [stack.enter_context(source.path.open("rb")) for source in sources]
        out = stack.enter_context(replacing(folder / name))
        for number, place in enumerate(tqdm(places, desc=str(folder))):
            files[place.source].seek(place.offset)
            row = json.loads(files[place.source].readline())
            images = image_sources(row_images(row), sources[place.source].path.parent)
            paths = [put(image, folder, f"{number}-{index}") for index, image in enumerate(images)]
            row = {name: value for name, value in row.items() if name != "image"}
            row |= {"images": paths, "id": unused(str(number if row.get("id") is None else row["id"]), used)}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")


def put(image: Any, folder: Path, name: str) -> str:
    """Links or writes an image below a folder; its path from there."""
    path = f"images/{name}{Path(image).suffix if isinstance(image, str) else '.img'}"
    if isinstance(image, str):
        linked(Path(image), folder / path)
    else:
        (folder / path).write_bytes(image)
    return path


def against(names: Sequence[str], split: str | None, columns: Sequence[str]) -> HashTable:
    """The pictures of benchmark files."""
    table = HashTable()
    for name in names:
        tasks = tasks_from(name, split=split, columns=parse_columns(list(columns)))
        for task in tqdm(tasks, desc=f"pictures of {Path(name).name}"):
            for image in task.images:
                table.add(perceptual_hash(open_image(image)), 0)
    return table


def _why_nothing(sources: Sequence[Source], kept: Sequence[tuple[list[RowPlace], list[RowPlace]]]) -> str:
    emptied = ", ".join(str(source.path) for (training, _), source in zip(kept, sources, strict=True) if not training)
    return (
        "nothing is left to mix. A source without rows takes the shares of the others to 0: "
        f"leave out {emptied}, or change --weights"
    )


def mix(
    names: Sequence[str],
    folder: Path,
    *,
    weights: Sequence[float] | None = None,
    forbidden: Sequence[str] = (),
    forbidden_split: str | None = None,
    forbidden_columns: Sequence[str] = (),
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
        raise ValueError(f"--held_out {held_out} is a share of the pictures: give a number from 0 to below 1")
    refuse_own_folder(folder, [source.path for source in sources])
    refuse_full_folder(folder)
    sieve = Sieve(against(forbidden, forbidden_split, forbidden_columns), per_image)
    for number, source in enumerate(sources):
        for offset, row in tqdm(source.rows(), desc=str(source.path)):
            sieve.judge(source, number, offset, row)
    kinds = sorted({source.name for source in sources if source.name})
    if len(kinds) != 1:
        raise ValueError(f"the sources hold {' and '.join(kinds) or 'nothing'}: mix traces alone, and tasks alone")
    rng = np.random.default_rng(seed)
    kept = [sides_of(source, sieve, held_out, seed) for source in sources]
    counts = counts_of([len(training) for training, _ in kept], weights)
    chosen = [
        training[place]
        for (training, _), size in zip(kept, counts, strict=True)
        for place in np.sort(rng.permutation(len(training))[:size])
    ]
    table = _table(sources, kept, counts)
    if not chosen:
        raise ValueError(f"{table}\n{_why_nothing(sources, kept)}")
    write(sources, [chosen[place] for place in rng.permutation(len(chosen))], folder, kinds[0])
    if held_out:
        write(sources, [place for _, other in kept for place in other], folder / "held_out", kinds[0])
    return table


def _table(
    sources: Sequence[Source], kept: Sequence[tuple[list[RowPlace], list[RowPlace]]], counts: Sequence[int]
) -> str:
    lines = ["\n| source | mixed | held out | left over | dropped |", "|---|---|---|---|---|"]
    for source, (training, held_out), mixed in zip(sources, kept, counts, strict=True):
        dropped = ", ".join(f"{count} {reason}" for reason, count in source.dropped.most_common()) or "0"
        lines.append(f"| {source.path} | {mixed} | {len(held_out)} | {len(training) - mixed} | {dropped} |")
    return "\n".join(lines)


def main() -> None:
    parser = plain_parser(__doc__)
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="folders or files of traces, or of tasks")
    parser.add_argument("--output_dir", required=True, type=Path, help="where the mixture goes")
    parser.add_argument("--weights", nargs="+", type=finite, help="the share of each source (default: all of each)")
    parser.add_argument("--against", nargs="+", default=[], metavar="FILE", help="tasks whose pictures are kept out")
    parser.add_argument("--against_split", help="their split, where they are saved or hub datasets with several")
    parser.add_argument("--against_columns", nargs="+", default=[], metavar="OURS=THEIRS", help="their column names")
    parser.add_argument("--held_out", type=finite, default=0.0, help="share of the pictures that are held out")
    parser.add_argument("--per_image", type=at_least_one, help="rows of one picture at most")
    parser.add_argument("--seed", type=from_zero, default=0, help="of what is chosen, held out, and its order")
    args = parser.parse_args()
    try:
        print(mix(args.sources, args.output_dir, weights=args.weights, forbidden=args.against,
                  forbidden_split=args.against_split, forbidden_columns=args.against_columns,
                  held_out=args.held_out, per_image=args.per_image, seed=args.seed))  # fmt: skip
    except (FileNotFoundError, ValueError, TaskError) as error:
        raise SystemExit(str(error)) from error
    print(f"written to {args.output_dir}")


if __name__ == "__main__":
    main()
