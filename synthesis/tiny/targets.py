"""Targets of the dense losses of pre-training: the content of each place of a picture."""

from __future__ import annotations

import numpy as np

from fovea.boxes import UNIT_VIEW, Box
from synthesis.shapes.scenes import COLORS, FORMS, LEGIBLE_PX, Shape, glyph_box
from synthesis.tiny.conversations import Picture


def dense_targets(picture: Picture, *, token_px: int, num_bins: int) -> np.ndarray:
    """Per visual token what it looks at: int64 [tokens, 7] = form, colour, digit, and the four coordinates of the box.

    Form 0 is ground, the last form a panel; -100 marks what does not apply. Coordinates are bins of the image's side.
    Auxiliary targets that teach the vision tower; the heads that read them are thrown away after pre-training.
    """
    rows, columns = picture.pixels.shape[0] // token_px, picture.pixels.shape[1] // token_px
    targets = np.full((rows, columns, 7), -100, dtype=np.int64)
    targets[..., 0] = 0
    ordered = sorted(picture.contents, key=lambda item: -item[1].area)
    for thing, box in ordered:
        covered = tokens_under(box, rows, columns, margin=0.25)
        targets[(*covered, 0)] = FORMS.index(thing.form) + 1 if isinstance(thing, Shape) else len(FORMS) + 1
        targets[(*covered, 1)] = list(COLORS).index(thing.color)
        bins = [min(num_bins - 1, max(0, int(value * num_bins))) for value in box.coordinates]
        targets[(*covered, slice(3, 7))] = bins
        if isinstance(thing, Shape):
            height_px = thing.print_height / thing.box.height * box.height * picture.pixels.shape[0]
            if height_px >= LEGIBLE_PX - 1:
                inside = glyph_box(thing).relative_to(thing.box).within(box, view=UNIT_VIEW)
                targets[(*tokens_under(inside, rows, columns, margin=0.0), 2)] = thing.digit
    return targets.reshape(-1, 7)


def tokens_under(box: Box, rows: int, columns: int, *, margin: float) -> tuple[slice, slice]:
    """Rows and columns of the tokens that `box` touches by more than `margin` of a token (at least one)."""
    x1, x2 = int(box.x1 * columns + margin), int(np.ceil(box.x2 * columns - margin))
    y1, y2 = int(box.y1 * rows + margin), int(np.ceil(box.y2 * rows - margin))
    return slice(max(y1, 0), max(y2, y1 + 1)), slice(max(x1, 0), max(x2, x1 + 1))
