"""Items of MIMIC's training data from OpenImages: `fovea tasks openimages --boxes CSV --classes CSV --output_dir DIR`.

Its released files are read as they are. Boxes of groups, depictions and insides are in doubt. Human labels say what is
absent, which makes distractors, and what is there without a box, which is in doubt. By the hierarchy of classes whoever
sees a dog sees an animal. No picture is fetched: needed.txt lists those that the items show, as OpenImages' downloader
takes them. When they are there, `fovea traces --dataset_name DIR --environment views` makes traces of the items.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from fovea.config import ConfigError
from fovea.jsonl import read_jsonl
from synthesis.mimic.arguments import ItemArguments
from synthesis.mimic.pool import AnnotationError, Instances, Pool
from synthesis.mimic.writing import command, write_items

COORDINATES = ("XMin", "YMin", "XMax", "YMax")
FLAGS = ("IsGroupOf", "IsDepiction", "IsInside")
"""1, 0, or -1 where nobody looked; a box with any of them but 0 is in doubt."""
MOST_IMAGES = 10
"""Images of an item in the paper's training data."""
NEEDED = "needed.txt"


@dataclass(kw_only=True)
class OpenImagesArguments(ItemArguments):
    """The files of OpenImages, and what items are like."""

    boxes: str = field(metadata={"help": "CSV of boxes (oidv6-train-annotations-bbox.csv)."})
    classes: str = field(metadata={"help": "CSV of class names (oidv7-class-descriptions-boxable.csv)."})
    labels: str | None = field(
        default=None,
        metadata={
            "help": "CSV of human labels: a class that an item names is then absent only where they say so. Of other "
            "classes, and without it of all, what has no box is taken for absent."
        },
    )
    hierarchy: str | None = field(default=None, metadata={"help": "JSON of classes (bbox_labels_600_hierarchy.json)."})
    images: str | None = field(
        default=None, metadata={"help": "Folder where the pictures will be, ID.jpg (default: images in output_dir)."}
    )
    split: str = field(default="train", metadata={"help": "Their part of OpenImages, for needed.txt."})

    def __post_init__(self) -> None:
        super().__post_init__()
        spread, distractors = (max(self.values_of(axis)) for axis in ("spread", "distractors"))
        if spread + distractors > MOST_IMAGES:
            raise ConfigError(
                f"--spread {spread} and --distractors {distractors} make {spread + distractors} images: the training "
                f"data have {MOST_IMAGES} at most"
            )


def read_open_images(arguments: OpenImagesArguments) -> Pool:
    """The pool of the released files.

    Raises:
        AnnotationError: for a file without the columns that it should have, or with numbers that are none.
    """
    names = _class_names(Path(arguments.classes))
    kinds = pa.array(list(names))
    parents = _parents(Path(arguments.hierarchy)) if arguments.hierarchy else {}
    boxes = _columns(Path(arguments.boxes), ("ImageID", "LabelName"), (*COORDINATES, *FLAGS))
    ids = boxes["ImageID"].dictionary
    kind = _numbers(boxes["LabelName"], kinds)
    is_known = kind >= 0
    if not is_known.all():
        print(f"{int((~is_known).sum())} boxes are of classes that {arguments.classes} does not name: left out")
    instances = Instances(
        picture=np.asarray(boxes["ImageID"].indices, np.int64)[is_known],
        kind=kind[is_known],
        boxes=np.stack([np.asarray(boxes[name], np.float32) for name in COORDINATES], axis=1)[is_known],
        is_crowd=np.any([np.asarray(boxes[name]) != 0 for name in FLAGS], axis=0)[is_known],
    )
    if not len(instances.kind):
        raise AnnotationError(f"{arguments.boxes} has no box of a class that {arguments.classes} names")
    names_of = [names[label] for label in names]
    above = _above(parents, list(names))
    doubts, absent = _said(arguments.labels, ids, kinds, instances, above)
    folder = Path(arguments.images) if arguments.images else Path(arguments.output_dir) / "images"
    categories = [names_of[above[kind][0]] if above[kind] else "" for kind in range(len(names_of))]
    return Pool(
        images=_Paths(folder.absolute(), ids), names=_Names(ids), classes=names_of, categories=categories,
        instances=instances, min_area=arguments.min_area, small=arguments.small, source="openimages", above=above,
        doubts=doubts, absent=absent,
    )  # fmt: skip


def _said(
    path: str | None, ids: pa.Array, kinds: pa.Array, instances: Instances, above: Mapping[int, Sequence[int]]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Pairs of picture and class that the human labels leave in doubt, and those that they call absent.

    Boxes are drawn of the most specific class that is there: a box of a man is one of a person, too.
    """
    if path is None:
        return np.zeros((0, 2), np.int64), None
    labels = _columns(Path(path), ("ImageID", "LabelName"), ("Confidence",))
    pictures, kind = _numbers(labels["ImageID"], ids), _numbers(labels["LabelName"], kinds)
    is_known = (pictures >= 0) & (kind >= 0)
    pairs = np.stack([pictures, kind], axis=1)[is_known]
    is_there = np.asarray(labels["Confidence"])[is_known] > 0
    keys = pairs[:, 0] * len(kinds) + pairs[:, 1]
    boxed = np.unique(instances.picture * len(kinds) + instances.kind)
    boxed = boxed[np.argsort(boxed % len(kinds), kind="stable")]
    starts = np.searchsorted(boxed % len(kinds), np.arange(len(kinds) + 1))
    of_kind = {kind: boxed[starts[kind] : starts[kind + 1]] for kind in above}
    held = [of_kind[kind] - kind + holder for kind, holders in above.items() for holder in holders]
    has_box = np.isin(keys, np.concatenate([boxed, *held]))
    return pairs[is_there != has_box], pairs[~is_there & ~has_box]


def _columns(path: Path, words: Sequence[str], numbers: Sequence[str]) -> Mapping[str, Any]:
    """Columns of a CSV file: of `words` each text stands once in memory, and of `numbers` a row takes four bytes.

    Raises:
        AnnotationError: for a file without them.
    """
    text = pa.dictionary(pa.int32(), pa.string())
    types = dict.fromkeys(words, text) | dict.fromkeys(numbers, pa.float32())
    options = csv.ConvertOptions(column_types=types, include_columns=[*words, *numbers])
    try:
        table = csv.read_csv(path, convert_options=options).unify_dictionaries().combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise AnnotationError(f"{path} has no columns {', '.join(types)} of OpenImages ({error})") from error
    if any(table[name].null_count for name in types):
        empty = [name for name in types if table[name].null_count]
        raise AnnotationError(f"{path} has rows without {', '.join(empty)}: each needs all of {', '.join(types)}")
    return {name: table[name].combine_chunks() if name in numbers else _one(table[name]) for name in types}


def _one(column: pa.ChunkedArray) -> pa.DictionaryArray:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _numbers(column: pa.DictionaryArray, known: pa.Array) -> np.ndarray:
    """Of each row the place of its text in `known`; -1 where it is not there."""
    places = pc.fill_null(pc.index_in(column.dictionary, value_set=known), -1)
    return np.asarray(places, np.int64)[np.asarray(column.indices)]


def _class_names(path: Path) -> dict[str, str]:
    """The name of each label; with or without a line of headings, as the file has changed.

    Raises:
        AnnotationError: for a file with other than two columns, or with one label or name twice.
    """
    options = csv.ReadOptions(column_names=["LabelName", "DisplayName"])
    types = csv.ConvertOptions(column_types={"LabelName": pa.string(), "DisplayName": pa.string()})
    try:
        rows = csv.read_csv(path, read_options=options, convert_options=types).to_pylist()
    except pa.ArrowInvalid as error:
        raise AnnotationError(f"{path} is not LabelName,DisplayName, two columns of text ({error})") from error
    names = {row["LabelName"]: row["DisplayName"] for row in rows if row["LabelName"] != "LabelName"}
    if len(names) < len(rows) - 1 or len(set(names.values())) < len(names) or not names:
        raise AnnotationError(f"{path} names a label or a class twice, or none: give each a name of its own")
    return names


def _parents(path: Path) -> dict[str, list[str]]:
    """The labels above each label: a class may stand below several. Parts (a wheel of a car) are no classes below."""
    parents: dict[str, list[str]] = defaultdict(list)

    def walk(node: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        for child in node.get("Subcategory", ()):
            yield child["LabelName"], node["LabelName"]
            yield from walk(child)

    try:
        for child, parent in walk(json.loads(path.read_text())):
            parents[child].append(parent)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise AnnotationError(f"{path} is no hierarchy of LabelName and Subcategory ({error!r})") from error
    return parents


def _above(parents: Mapping[str, Sequence[str]], labels: Sequence[str]) -> dict[int, list[int]]:
    """The classes above each, nearest first; those that have no name, as the root, are none."""
    places = {label: place for place, label in enumerate(labels)}
    above = {}
    for label, place in places.items():
        found = [label]
        for one in found:  # which grows
            found += [parent for parent in parents.get(one, ()) if parent not in found]
        above[place] = [places[one] for one in found[1:] if one in places]
    return above


class _Names(Sequence):
    """The texts of an Arrow array, made when they are asked for."""

    def __init__(self, texts: pa.Array) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, place: Any) -> Any:
        return self.texts[int(place)].as_py()


class _Paths(_Names):
    """The future path of each picture by its id."""

    def __init__(self, folder: Path, ids: pa.Array) -> None:
        super().__init__(ids)
        self.folder = folder

    def __getitem__(self, place: Any) -> Any:
        return str(self.folder / f"{super().__getitem__(place)}.jpg")


def run(arguments: OpenImagesArguments) -> Path:
    """Draws the items and writes them, with the list of the pictures that they show. Returns the folder."""
    files = (arguments.boxes, arguments.classes, arguments.labels, arguments.hierarchy)
    folder = write_items(arguments, read_open_images, sources=[file for file in files if file])
    shown = {name for row in read_jsonl(folder / "tasks.jsonl") for name in row["metadata"]["pictures"]}
    (folder / NEEDED).write_text("".join(f"{arguments.split}/{name}\n" for name in sorted(shown)))
    print(f"{len(shown)} pictures are needed: {folder / NEEDED}")
    return folder


def main() -> None:
    command(OpenImagesArguments, run, __doc__)


if __name__ == "__main__":
    main()
