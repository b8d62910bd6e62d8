"""Images that many episodes show are opened and resized once."""

from __future__ import annotations

from PIL import Image

from fovea.bounded_cache import BoundedCache
from fovea.images import PixelLimits, Source, encoded, encoded_hash, fit, fitted_size, open_image


class ImageStore:
    """Opens each distinct image once, by content hash, and keeps the recent ones up to `max_bytes` of pixels."""

    def __init__(self, *, max_bytes: int = 2**30) -> None:
        self.num_opened = 0
        self._images: BoundedCache[Image.Image] = BoundedCache(
            max_bytes, size=lambda image: image.width * image.height * 3
        )

    def open(self, source: Source) -> Image.Image:
        """The RGB image of a source.

        Raises:
            ImageError: as `open_image`.
        """
        content = encoded(source)
        return self._opened(content, encoded_hash(content))

    def fitted(self, source: Source, *limits: PixelLimits) -> Image.Image:
        """The image as it reaches the model within `limits`, resized once however many episodes show it."""
        content = encoded(source)
        key = encoded_hash(content)
        original = self._opened(content, key)
        return self._images.get(f"{key} {fitted_size(original.size, *limits)}", lambda: fit(original, *limits))

    def _opened(self, content: bytes | Image.Image, key: str) -> Image.Image:
        def make() -> Image.Image:
            self.num_opened += 1
            return open_image(content)

        return self._images.get(key, make)
