"""An environment of your own: a class in TRL's shape, whose public methods are tools (docs/my_environment.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from fovea.episodes import FaultKind, ModelFault
from fovea.images import open_image


class Halves:
    """Shows the image, and on demand one half of it."""

    system_prompt = "Look at the halves of the image if need be. Answer inside <answer></answer>."

    def __init__(self) -> None:
        self._images: list[Image.Image] = []

    def reset(self, *, images: Sequence[Any], question: str, **row: Any) -> list[dict[str, Any]]:
        """The content of the first user message."""
        self._images = [open_image(image) for image in images]
        views = [{"type": "image", "image": image.resize((128, 128))} for image in self._images]
        return [*views, {"type": "text", "text": question}]

    def look_at_half(self, side: str) -> list[dict[str, Any]]:
        """See one half of the image larger.

        Args:
            side: left or right.
        """
        if side not in ("left", "right"):
            raise ModelFault(FaultKind.BAD_ARGUMENTS, "side must be left or right.")
        image = self._images[0]
        middle = image.width // 2
        half = image.crop((0, 0, middle, image.height) if side == "left" else (middle, 0, image.width, image.height))
        return [{"type": "image", "image": half.resize((64, 128))}, {"type": "text", "text": f"The {side} half."}]
