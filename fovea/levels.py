"""Pictures of any mode and depth as RGB of 8 bits."""

from __future__ import annotations

import numpy as np
from PIL import Image


def to_rgb(image: Image.Image, bits: int | None) -> Image.Image:
    """RGB, transparency over white, levels of any depth scaled to 8 bits."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _to_8_bits(image, bits)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        background = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(background, layer).convert("RGB")
    return image.convert("RGB")


DEPTHS = (8, 10, 12, 14, 16, 24, 32)


def _to_8_bits(image: Image.Image, bits: int | None) -> Image.Image:
    """Levels of more than 8 bits, or fractions, as RGB.

    Their depth is `bits`, which a TIFF says, else the smallest usual one that holds the brightest level, or that level
    itself. Fractions from 0 to 1 are taken as such, with a little more where they were resampled. What is below 0 or
    no number is black, what is infinite white.
    """
    levels = np.asarray(image, dtype=np.float64)
    finite_levels = levels[np.isfinite(levels)].clip(min=0)
    brightest = float(finite_levels.max(initial=0))
    if image.mode == "F" and brightest <= 1.1:
        white_level = 1.0
    elif bits is not None and 8 < bits < 16:
        white_level = 2.0**bits - 1
    else:
        white_level = next((2.0**depth - 1 for depth in DEPTHS if brightest < 2**depth), brightest)
    scaled = np.nan_to_num(levels, nan=0.0, posinf=white_level, neginf=0.0) * (255 / white_level)
    return Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8)).convert("RGB")
