"""Images as the model sees them: opened once, bounded in size, cropped from the original, fitted to the patch grid."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from fovea.boxes import Box, Frame, Size, View
from fovea.ledger import phase
from fovea.levels import to_rgb

MAX_IMAGE_PIXELS = 100_000_000
"""Images above this many pixels are refused before they are decoded (decompression bombs)."""
MAX_ASPECT_RATIO = 130
"""Of an image's sides. Qwen-VL's processors refuse 200, which rounding to patches can make of a third less."""


@dataclass(frozen=True)
class PixelLimits:
    """Between how many pixels an image reaches the model, in multiples of `factor` (patch size x merge size)."""

    min_pixels: int
    max_pixels: int
    factor: int

    def __post_init__(self) -> None:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} exceeds max_pixels {self.max_pixels}: lower the first")
        if self.max_pixels < self.factor**2:
            raise ValueError(
                f"max_pixels {self.max_pixels} is less than one visual token: use at least {self.factor**2}"
            )

    @property
    def sets_tokens(self) -> bool:
        """True if a smaller image has fewer visual tokens; false where a processor cuts tiles of a fixed size."""
        return self.factor > 1

    def fit_size(self, size: Size) -> Size:
        """The (width, height) at which an image of `size` reaches the model, by Qwen-VL's own rule.

        A strip one patch high comes out of it too large, and the processor would make it smaller again: it is
        repeated until it leaves the size as it is.
        """
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        height, width = smart_resize(size[1], size[0], self.factor, self.min_pixels, self.max_pixels)
        while min(width, height) == self.factor and width * height > self.max_pixels:
            height, width = smart_resize(height, width, self.factor, self.min_pixels, self.max_pixels)
        return width, height


def fitted_size(size: Size, *limits: PixelLimits) -> Size:
    """The size after each of `limits` in turn. A smaller view must still meet the processor's limits."""
    for limit in limits:
        size = limit.fit_size(size)
    return size


def write_png(image: Image.Image, to: Path | BinaryIO) -> None:
    """Writes an image as a PNG file, lightly compressed: a quarter of the usual seconds, a sixth more bytes."""
    image.save(to, "PNG", compress_level=1)


def fit(image: Image.Image, *limits: PixelLimits) -> Image.Image:
    """The image resized (bicubic, antialiased) to the size at which the model receives it."""
    size = fitted_size(image.size, *limits)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def coarser(image: Image.Image, factor: int) -> Image.Image:
    """The image at the same size with the detail of a `factor`-th of its pixels (shrunk, then enlarged)."""
    if factor == 1:
        return image
    width, height = (max(1, round(side / factor**0.5)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC)


def cut(image: Image.Image, box: Box) -> Image.Image:
    """The part of an original image under `box` (any frame that needs no input size), at native resolution."""
    return image.crop(pixels_under(box, image.size))


def pixels_under(box: Box, size: Size) -> tuple[int, int, int, int]:
    """The whole pixels (left, top, right, bottom) of an image of this size that a box covers, at least one.

    This is the one place where boxes are rounded to pixels of the original.
    """
    view = View(original=size, input=size)
    x1, y1, x2, y2 = (int(value) for value in box.to(Frame.ORIGINAL, view).clipped(view).rounded().coordinates)
    x1, y1 = min(x1, size[0] - 1), min(y1, size[1] - 1)
    return x1, y1, max(x2, x1 + 1), max(y2, y1 + 1)


_DATA_URI = re.compile(r"data:[\w/+.-]*;base64,(.*)", re.DOTALL)
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]{64,}={0,2}\s*")


def decoded_text(text: str) -> bytes | None:
    """The bytes of an image written as a data URI or in base64; None for a text that is neither, as a path.

    Raises:
        ImageError: for a data URI that cannot be read.
    """
    match = _DATA_URI.fullmatch(text)
    if match is None and text.startswith("data:"):
        raise ImageError(f"image {text[:40]!r}… is a data URI without base64: write data:image/png;base64,…")
    if match is None and not _BASE64.fullmatch(text):
        return None
    try:
        return base64.b64decode(match[1] if match else text, validate=False)
    except ValueError as error:
        if match is None:
            return None
        raise ImageError(f"image {text[:40]!r}… is no base64: {error}") from error


def content_hash(data: bytes) -> str:
    """Name of an image by its content: the first 32 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(data).hexdigest()[:32]


class ImageError(ValueError):
    """An image that cannot be used, and the reason."""


class Readable(Protocol):
    """Encoded bytes that stay where they are until they are asked for.

    One that draws them may have a text `mark`, the same for the same picture alone: by it the picture is told apart
    without being drawn.
    """

    def read(self) -> bytes: ...


_Read = TypeVar("_Read")
Source = str | Path | bytes | Image.Image | Readable | dict
"""Sources of an image: a path, encoded bytes, a PIL image, a reader of encoded bytes, or a
`datasets` image dictionary."""


def encoded(source: Source) -> bytes | Image.Image:
    """The encoded bytes of an image, or the PIL image that it is.

    Raises:
        ImageError: if the file cannot be read.
    """
    if isinstance(source, dict):
        source = source.get("bytes") or source.get("path") or b""
    if isinstance(source, (bytes, Image.Image)):
        return source
    try:
        return Path(source).read_bytes() if isinstance(source, (str, Path)) else source.read()
    except OSError as error:
        raise ImageError(f"image {source} cannot be opened: {error.strerror}") from error


def is_strip(size: Size) -> bool:
    """Returns True if an image is too thin to be opened."""
    return max(size) > MAX_ASPECT_RATIO * min(size)


@phase("decode images")
def open_image(source: Source) -> Image.Image:
    """An RGB image, EXIF-rotated.

    Raises:
        ImageError: if the file is missing, corrupt, empty, or one that `check_size` refuses.
    """
    name = str(source) if isinstance(source, (str, Path)) else "in memory"
    try:
        content = encoded(source)
        image = content if isinstance(content, Image.Image) else _decode_lazily(content)
        check_size(image.size, name)
        image.load()  # what is wrong with the pixels is told here, what is wrong with their EXIF is let go
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE)
        return to_rgb(_upright(image), bits[0] if bits else None)
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"image {name} cannot be opened: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Pillow's words; where they would name an object of ours, other ones."""
    return "it is in no format that Pillow knows" if isinstance(error, UnidentifiedImageError) else str(error)


def check_size(size: Size, name: str) -> None:
    """Raises ImageError for an image that is too large to be opened, or too thin to be shown."""
    width, height = size
    if width * height > MAX_IMAGE_PIXELS:
        raise ImageError(f"image {name} has {width}x{height} pixels, the bound is {MAX_IMAGE_PIXELS}: resize it")
    if is_strip(size):
        raise ImageError(
            f"image {name} is {width}x{height}: sides differ by over {MAX_ASPECT_RATIO}x: crop it, or leave it out"
        )


def image_size(source: Source) -> Size:
    """Width and height of an image as `open_image` gives it, EXIF-rotated.

    Raises:
        ImageError: if the file is missing, empty, or no image.
    """
    return _of_header(source, _rotated_size)


def stored_size(source: Source) -> Size:
    """Width and height before EXIF turns them, from the header alone: a PNG may have its EXIF behind its pixels.

    Raises:
        ImageError: as `image_size`.
    """
    return _of_header(source, lambda image: image.size)


def exif_orientation(source: Source) -> int | None:
    """The EXIF orientation of an image, 1 to 8; None if EXIF has none or cannot be read.

    Raises:
        ImageError: as `image_size`.
    """
    return _of_header(source, _orientation)


def _of_header(source: Source, read: Callable[[Image.Image], _Read]) -> _Read:
    if isinstance(source, dict):
        source = source.get("bytes") or source.get("path") or b""
    try:
        if isinstance(source, (str, Path)):
            with Image.open(source) as image:
                return read(image)
        content = encoded(source)
        return read(content if isinstance(content, Image.Image) else _decode_lazily(content))
    except ImageError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        name = str(source) if isinstance(source, (str, Path)) else "in memory"
        raise ImageError(f"image {name} cannot be opened: {_reason(error)}") from error


_IMAGE_WIDTH, _IMAGE_LENGTH, _BITS_PER_SAMPLE = 256, 257, 258
"""TIFF tags."""


def _upright(image: Image.Image) -> Image.Image:
    """The image rotated by its EXIF orientation; unchanged if that cannot be read."""
    return image if _orientation(image) in (None, 1) else ImageOps.exif_transpose(image)


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation of an image; None if EXIF has none or cannot be read."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except (SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return None


def _rotated_size(image: Image.Image) -> Size:
    is_turned = _orientation(image) in (5, 6, 7, 8)
    tags = getattr(image, "tag_v2", None)  # of a TIFF, whose size Pillow has turned by itself
    width, height = image.size if tags is None else (tags[_IMAGE_WIDTH], tags[_IMAGE_LENGTH])
    return (height, width) if is_turned else (width, height)


def _decode_lazily(content: bytes) -> Image.Image:
    if not content:
        raise ImageError("image is empty: give bytes or a path")
    return Image.open(io.BytesIO(content))


def encoded_hash(content: bytes | Image.Image) -> str:
    return content_hash(content) if isinstance(content, bytes) else image_hash(content)


def image_hash(image: Image.Image) -> str:
    """Content hash of decoded pixels."""
    return content_hash(repr((image.mode, image.size)).encode() + image.tobytes())
