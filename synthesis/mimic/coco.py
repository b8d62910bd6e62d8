"""Annotations in COCO's format, read as a stream: the polygons of a large file never stand in memory together."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ijson
import numpy as np
from tqdm import tqdm

from fovea.images import ImageError, exif_orientation, image_size, stored_size
from synthesis.mimic.pool import AnnotationError, Instances, Pool

LAYOUT = 'COCO\'s format: {"images": [{id, file_name, width, height}], "categories": [{id, name, supercategory}], ' + (
    '"annotations": [{image_id, category_id, bbox: [x, y, width, height] in pixels, iscrowd}]}'
)

NO_CATEGORY = ("none", "null", "thing", "object")
"""Names that exporters write for a class without a category."""


def read_coco(path: Path, folder: Path, *, min_area: float, small: str) -> Pool:
    """The pool of a COCO file, of the pictures that are in `folder`.

    Left out and counted aloud are pictures that are not in the folder, cannot be opened, are turned by their EXIF, or
    are another one's bytes once more; and annotations of pictures or classes that are not there.

    Raises:
        AnnotationError: for a file in another layout, with the entry that shows it; for one without any picture.
    """
    kinds, classes, categories = _classes(path)
    pictures, files, sizes, left_out = _pictures(path, folder)
    if not pictures:
        whys = "; ".join(f"{len(names)} {why}" for why, names in left_out.items())
        raise AnnotationError(f"{path}: no image can be used: {whys}. Give their folder with --images")
    found, num_strange = _instances(path, pictures, kinds, np.array(sizes))
    for why, names in left_out.items():
        print(f"{len(names)} images {why}: left out (the first: {names[0]})")
    if num_strange:
        print(f"{num_strange} annotations name an image or a category that is not there: left out")
    images = [str((folder / name).absolute()) for name in files]
    return Pool(images, files, classes, categories, found, min_area, small, source=path.name)


def _classes(path: Path) -> tuple[dict[int, int], list[str], list[str]]:
    """The place of each category by its id, their names, and the names above them."""
    kinds: dict[int, int] = {}
    classes: list[str] = []
    categories: list[str] = []
    for row in _rows(path, "categories", ("id", "name")):
        name = str(row["name"]).strip()
        if name in classes or row["id"] in kinds:
            raise AnnotationError(
                f"{path}: category {row['id']} ({name}) is there twice: give each its own id and name"
            )
        kinds[row["id"]] = len(classes)
        classes.append(name)
        above = str(row.get("supercategory") or "").strip()
        categories.append("" if above.lower() in NO_CATEGORY else above)
    return kinds, classes, categories


def _pictures(
    path: Path, folder: Path
) -> tuple[dict[Any, int], list[str], list[tuple[float, float]], dict[str, list[str]]]:
    """The place of each image by its id, their files and sizes, and by reason the files that are left out."""
    present = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    ids: dict[Any, str] = {}
    sizes: dict[str, tuple[float, float]] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    rows = _rows(path, "images", ("id", "file_name", "width", "height"))
    for row in tqdm(rows, desc="images", mininterval=2):
        name, size = str(row["file_name"]), (float(row["width"]), float(row["height"]))
        if row["id"] in ids or name in sizes:
            raise AnnotationError(f"{path}: image {row['id']} ({name}) is there twice: give each its own id and file")
        if not min(size) > 0:
            raise AnnotationError(f"{path}: image {row['id']} is {size[0]:g}x{size[1]:g}: give both sides above 0")
        if name not in present and not (folder / name).is_file():
            left_out[f"are not in {folder}"].append(name)
        elif why := _why_unusable(folder / name, size):
            left_out[why].append(name)
        else:
            ids[row["id"]], sizes[name] = name, size
    if again := _repeated(folder, list(sizes)):
        left_out["are another one's bytes once more"] = sorted(again)
    files = [name for name in sizes if name not in again]
    places = {name: place for place, name in enumerate(files)}
    pictures = {id: places[name] for id, name in ids.items() if name in places}
    return pictures, files, [sizes[name] for name in files], left_out


def _why_unusable(file: Path, size: tuple[float, float]) -> str | None:
    """The reason that boxes do not fit a picture annotated at this size; None if they fit.

    A picture that EXIF turns is shown turned. Sizes say whether it was annotated so only if it lies where it stood.
    """
    try:
        shown, stored, orientation = image_size(file), stored_size(file), exif_orientation(file)
    except ImageError:
        return "cannot be opened"
    ratio, (across, down), (before, below) = size[0] / size[1], shown, stored
    is_as_shown = across * below != down * before and abs(ratio * down - across) < 0.05 * across
    if orientation in (None, 1) or is_as_shown:
        return None
    return "are turned by their EXIF, and nothing says that boxes are, too (turn them, and drop the EXIF)"


def _repeated(folder: Path, names: Sequence[str]) -> set[str]:
    """Files whose bytes are those of an earlier one."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for name in names:
        by_size[(folder / name).stat().st_size].append(name)
    seen: set[tuple[int, bytes]] = set()
    again = set()
    alike = [(size, name) for size, group in by_size.items() if len(group) > 1 for name in group]
    for size, name in tqdm(alike, desc="images of equal size in bytes", mininterval=2):
        with (folder / name).open("rb") as file:
            key = size, hashlib.file_digest(file, "sha256").digest()
        if key in seen:
            again.add(name)
        seen.add(key)
    return again


def _instances(
    path: Path, pictures: Mapping[int, int], kinds: Mapping[int, int], sizes: np.ndarray
) -> tuple[Instances, int]:
    """The instances of listed pictures and classes, and how many are of others."""
    keys, boxes, crowds, num_strange = [], [], [], 0
    ids = set[Any]()
    for row in tqdm(_rows(path, "annotations", ("image_id", "category_id", "bbox")), desc="annotations", mininterval=2):
        picture, kind = pictures.get(row["image_id"]), kinds.get(row["category_id"])
        box, id = row["bbox"], row.get("id")
        if id is not None and id in ids:
            raise AnnotationError(
                f"{path}: annotation {id} is there twice, and would be counted twice: give each its own id"
            )
        ids.add(id)
        if not isinstance(box, list) or len(box) != 4 or not all(isinstance(side, (int, float)) for side in box):
            raise AnnotationError(f"{path}: annotation {id} has bbox {box!r:.80}, not {LAYOUT}")
        if picture is None or kind is None:
            num_strange += 1
            continue
        keys.append((picture, kind))
        boxes.append(tuple(map(float, box)))
        crowds.append(bool(row.get("iscrowd")))
    picture_of, kind_of = np.array(keys, np.int64).reshape(-1, 2).T
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return Instances(picture_of, kind_of, corners / np.tile(sizes[picture_of], 2), np.array(crowds, bool)), num_strange


def _rows(path: Path, key: str, needed: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The entries of one list of the file.

    Raises:
        AnnotationError: for a file that is no JSON, or has no such list of objects with these entries.
    """
    number = -1
    try:
        with path.open("rb") as file:
            for number, row in enumerate(ijson.items(file, f"{key}.item", use_float=True)):
                if not isinstance(row, dict) or (missing := [name for name in needed if row.get(name) is None]):
                    what = f"has no {', '.join(missing)}" if isinstance(row, dict) else f"is {row!r:.60}"
                    raise AnnotationError(f"{path}: entry {number} of {key} {what}: it must be in {LAYOUT}")
                yield row
    except ijson.JSONError as error:
        raise AnnotationError(f"{path} is no JSON ({error} behind entry {number} of {key})") from error
    if number < 0 and key != "annotations":
        raise AnnotationError(f"{path} has no {key}: it must be in {LAYOUT}")
