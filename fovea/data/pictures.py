"""Pictures as rows of files hold them: what they can be opened from, and whether all of them is there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image

from fovea.data.columns import TaskError, is_missing
from fovea.data.sources import StoredImage
from fovea.images import ImageError, check_size, decoded_text, open_image, stored_size


def image_source(image: Any, folder: Path) -> Any:
    """The source of a row's image, for `open_image`: paths become absolute, base64 and data URIs become bytes.

    Raises:
        TaskError: for one that is empty, no image, or not there.
    """
    if isinstance(image, Mapping):
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str) and not image.strip():
        raise TaskError("an image is an empty text: it must be a path, a data URI, base64, bytes or a PIL image")
    if isinstance(image, str) and not _is_file(folder, image) and (content := decoded_text(image)) is not None:
        try:
            stored_size(content)
        except ImageError as error:
            raise TaskError(f"image {image[:40]!r}… is neither a path nor an image in base64 ({error})") from error
        _refuse_other_files(content)
        return content
    if isinstance(image, str):
        path = folder / image
        if "://" in image:
            raise TaskError(f"image {image[:80]} is an address, which is not fetched: download it, and give its path")
        try:
            is_there = path.exists()
        except OSError as error:
            raise TaskError(f"image {image[:80]!r}… is no path: {error.strerror}") from error
        if not is_there:
            raise TaskError(f"image {path} does not exist: paths are relative to {folder}")
        if path.is_dir():
            raise TaskError(f"image {path} is a folder: name a file in it")
        _refuse_other_files(str(path))
        return str(path)
    if is_missing(image):
        raise TaskError("an image is empty: it must be a path, bytes or a PIL image")
    if isinstance(image, (bytes, StoredImage)):
        _refuse_other_files(image)
    elif not isinstance(image, Image.Image):
        raise TaskError(f"an image is a {type(image).__name__}, {image!r:.60}: it must be a path, bytes or a PIL image")
    return image


def _refuse_other_files(image: str | bytes | StoredImage) -> None:
    """Raises TaskError for a file that is no image, only a part of one, or one that no environment shows.

    It is decoded unless its beginning and its end are those of a whole PNG, JPEG, GIF or WebP.
    """
    try:
        if isinstance(image, str):
            with open(image, "rb") as file:
                beginning, length = file.read(12), file.seek(0, 2)
                file.seek(max(0, length - TAIL))
                ending = file.read()
        else:
            content = image.view() if isinstance(image, StoredImage) else memoryview(image)
            beginning, ending, length = bytes(content[:12]), bytes(content[-TAIL:]), len(content)
        if not looks_whole(beginning, ending, length):
            open_image(image)
        check_size(stored_size(image), str(image) if isinstance(image, str) else "in memory")
    except (ImageError, OSError) as error:
        raise TaskError(f"{error}; it must be a whole PNG, JPEG or another picture") from error


def _is_file(folder: Path, name: str) -> bool:
    with suppress(OSError, ValueError):
        return (folder / name).is_file()
    return False


TAIL = 4096
"""Bytes at the end of a file by which it is known to be whole."""


_OF_A_PICTURE = re.compile(rb"\xff[\xc0-\xcf\xda\xdb]")
"""Marks that open tables, frames and scans of a JPEG."""


def looks_whole(beginning: bytes, ending: bytes, length: int) -> bool:
    """Returns True if a file of `length` bytes begins and ends like a whole PNG, JPEG, GIF or WebP.

    `beginning` is its first 12 bytes, `ending` its last `TAIL`. False says only that it has to be decoded to know.
    """
    if beginning.startswith(b"\x89PNG"):
        return b"IEND" in ending
    if beginning.startswith(b"\xff\xd8\xff"):
        end = ending.rfind(b"\xff\xd9")
        return end >= 0 and not _OF_A_PICTURE.search(ending, end)  # else it is the end of a thumbnail
    if beginning.startswith(b"GIF8"):
        return ending.endswith(b"\x00;")
    is_webp = beginning.startswith(b"RIFF") and beginning.endswith(b"WEBP")
    return is_webp and int.from_bytes(beginning[4:8], "little") + 8 <= length
