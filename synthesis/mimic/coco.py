"""Annotations in COCO's format, read as a stream: the polygons of a large file never stand in memory together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ijson
import numpy as np
from tqdm import tqdm

from fovea.images import ImageError, image_size
from synthesis.mimic.pool import AnnotationError, Instances, Pool

LAYOUT = 'COCO\'s format: {"images": [{id, file_name, width, height}], "categories": [{id, name, supercategory}], ' + (
    '"annotations": [{image_id, category_id, bbox: [x, y, width, height] in pixels, iscrowd}]}'
)


def read_coco(path: Path, folder: Path, *, min_area: float, small: str) -> Pool:
    """The pool of a COCO file, of the pictures that are in `folder`.

    Annotations of pictures or classes that the file does not list are left out and counted aloud; so are pictures that
    are not in the folder.

    Raises:
        AnnotationError: for a file in another layout, with the entry that shows it; for one without any picture.
    """
    kinds, classes, categories = _classes(path)
    pictures, files, sizes, num_missing = _pictures(path, folder)
    if not pictures:
        raise AnnotationError(
            f"{path}: none of its {num_missing} images is in {folder}: give their folder with --images"
        )
    found, num_strange = _instances(path, pictures, kinds, np.array(sizes))
    for count, what in (
        (num_missing, f"images are not in {folder}"),
        (num_strange, "annotations name an image or a category that is not there"),
    ):
        if count:
            print(f"{count} {what}: left out")
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
        categories.append(str(row.get("supercategory") or "thing").strip())
    return kinds, classes, categories


def _pictures(path: Path, folder: Path) -> tuple[dict[int, int], list[str], list[tuple[float, float]], int]:
    """The place of each image by its id, their files and sizes, and how many are not in the folder."""
    present = {file.name for file in folder.iterdir()} if folder.is_dir() else set()
    pictures: dict[int, int] = {}
    sizes: dict[str, tuple[float, float]] = {}
    num_missing = num_turned = 0
    rows = _rows(path, "images", ("id", "file_name", "width", "height"))
    for row in tqdm(rows, desc="images", mininterval=2):
        name = str(row["file_name"])
        if row["id"] in pictures or name in sizes:
            raise AnnotationError(f"{path}: image {row['id']} ({name}) is there twice: give each its own id and file")
        if name not in present and not (folder / name).is_file():
            num_missing += 1
            continue
        size = float(row["width"]), float(row["height"])
        if _is_turned(folder / name, size):
            num_turned += 1
            continue
        if not min(size) > 0:
            raise AnnotationError(f"{path}: image {row['id']} is {size[0]:g}x{size[1]:g}: sides are above 0")
        pictures[row["id"]] = len(sizes)
        sizes[name] = size
    if num_turned:
        print(f"{num_turned} images are turned by their EXIF, and boxes are of the images before: left out (turn them, "
              "and drop the EXIF)")  # fmt: skip
    return pictures, list(sizes), list(sizes.values()), num_missing


def _is_turned(file: Path, size: tuple[float, float]) -> bool:
    """Whether a picture is shown upright where it is annotated lying, or the other way round."""
    try:
        width, height = image_size(file)
    except ImageError:  # told when it is to be shown
        return False
    return (width > height) != (size[0] > size[1]) and abs(width * size[0] - height * size[1]) < 0.05 * width * size[0]


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
            raise AnnotationError(f"{path}: annotation {id} is there twice, and would be counted twice")
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
