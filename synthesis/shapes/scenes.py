"""Procedural scenes in which what is asked cannot be read in the first view.

A scene is a noisy ground with a few coloured shapes; each carries a plate with one digit. At the usual first view the
digit is two to three pixels tall, so it must be zoomed into; in large print it is legible at once. Panels hold shapes
of half the size, which a first zoom has to bring near before a second one can read them.
All boxes of a scene are in the UNIT frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from fovea.boxes import Box, Frame

SCENE_SIZE_PX = 640
COLORS = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 214),
    "yellow": (232, 204, 40),
    "purple": (140, 50, 180),
    "cyan": (40, 190, 210),
}
FORMS = ("square", "triangle", "cross")
Name = tuple[str, str]
"""Colour and form of a shape."""
NAMES: tuple[Name, ...] = tuple((color, form) for color in COLORS for form in FORMS)
GLYPHS = (
    "111101101101111",
    "110010010010111",
    "111001111100111",
    "111001011001111",
    "101101111001001",
    "111100111001111",
    "111100111101111",
    "111001001010010",
    "111101111101111",
    "111101111001111",
)
"""Digits 0 to 9 on a grid of 3 columns and 5 rows, row by row."""

SMALL_PRINT, LARGE_PRINT = 0.0195, 0.094
"""Height of a digit as a fraction of the scene's side: 2.5 and 12 pixels at a first view of 128."""
LEGIBLE_PX = 7.0
"""A digit at least this tall in a view counts as legible there."""
GRID = 6
DRAWING = 1
"""Number of the way in which scenes are drawn: another one makes other pictures of the same scenes."""


@dataclass(frozen=True)
class Shape:
    """A coloured shape with a digit on it; `print_height` is the digit's height as a fraction of the scene's side."""

    color: str
    form: str
    box: Box
    digit: int
    print_height: float

    @property
    def name(self) -> str:
        return f"{self.color} {self.form}"


@dataclass(frozen=True)
class Panel:
    """A framed white board that holds shapes of half the usual size."""

    color: str
    box: Box
    shapes: tuple[Shape, ...]

    @property
    def name(self) -> str:
        return f"{self.color} panel"


@dataclass(frozen=True)
class Scene:
    """The content of a picture: shapes on the ground, and panels with shapes of their own."""

    shapes: tuple[Shape, ...]
    panels: tuple[Panel, ...]
    noise_seed: int

    @property
    def all_shapes(self) -> tuple[Shape, ...]:
        return self.shapes + tuple(shape for panel in self.panels for shape in panel.shapes)


def sample_scene(
    rng: np.random.Generator,
    *,
    num_shapes: int,
    num_panels: int = 0,
    large_print: bool = False,
    names: Sequence[Name] | None = None,
) -> Scene:
    """A random scene of `num_shapes` shapes and `num_panels` panels; none overlap, names repeat only if they must.

    `names` are those of the shapes, one for each, where they are not drawn.
    """
    free = np.ones((GRID, GRID), dtype=bool)
    panels = tuple(
        _sample_panel(rng, free, color) for color in rng.choice(list(COLORS), size=num_panels, replace=False)
    )
    if names is None:
        drawn = rng.choice(len(NAMES), size=num_shapes, replace=num_shapes > len(NAMES))
        names = [NAMES[index] for index in drawn]
    cells = np.argwhere(free)
    cells = cells[rng.choice(len(cells), size=num_shapes, replace=False)]
    shapes = []
    for (color, form), (row, column) in zip(names, cells, strict=True):
        size = rng.uniform(0.14, 0.155) if large_print else rng.uniform(0.08, 0.092)
        print_height = (LARGE_PRINT if large_print else SMALL_PRINT) * rng.uniform(0.95, 1.08)
        box = _jittered_box(rng, column / GRID, row / GRID, 1 / GRID, size)
        shapes.append(Shape(color, form, box, int(rng.integers(10)), print_height))
    shapes.sort(key=lambda shape: (round(shape.box.y1 * GRID), shape.box.x1))
    return Scene(tuple(shapes), panels, int(rng.integers(2**31)))


def _jittered_box(rng: np.random.Generator, left: float, top: float, cell: float, size: float) -> Box:
    x1 = left + rng.uniform(0, cell - size)
    y1 = top + rng.uniform(0, cell - size)
    return Box(x1, y1, x1 + size, y1 + size, Frame.UNIT)


def _sample_panel(rng: np.random.Generator, free: np.ndarray, color: str) -> Panel:
    """A panel on a free block of 2x2 cells, which it takes; it holds two or three shapes on a 3x3 grid of its own."""
    corners = [
        (row, column)
        for row in range(GRID - 1)
        for column in range(GRID - 1)
        if free[row : row + 2, column : column + 2].all()
    ]
    row, column = corners[rng.integers(len(corners))]
    free[row : row + 2, column : column + 2] = False
    box = _jittered_box(rng, column / GRID, row / GRID, 2 / GRID, rng.uniform(0.27, 0.3))
    cell = box.width / 3
    shapes = []
    num_shapes = int(rng.integers(2, 4))
    cells = rng.choice(9, size=num_shapes, replace=False)
    for index, place in zip(rng.choice(len(NAMES), size=num_shapes, replace=False), cells, strict=True):
        inner = _jittered_box(
            rng, box.x1 + place % 3 * cell, box.y1 + place // 3 * cell, cell, rng.uniform(0.046, 0.053)
        )
        name, form = NAMES[index]
        shapes.append(Shape(name, form, inner, int(rng.integers(10)), SMALL_PRINT * 0.62))
    return Panel(str(color), box, tuple(shapes))


def render(scene: Scene, *, size_px: int = SCENE_SIZE_PX) -> Image.Image:
    """The scene as an RGB image of `size_px` by `size_px`; the same scene always gives the same pixels."""
    rng = np.random.default_rng(scene.noise_seed)
    image = Image.new("RGB", (size_px, size_px), tuple(int(level) for level in rng.integers(90, 170, size=3)))
    draw = ImageDraw.Draw(image)
    for panel in scene.panels:
        frame = max(2, size_px // 100)
        draw.rectangle(_pixels(panel.box, size_px), fill=(235, 235, 235), outline=COLORS[panel.color], width=frame)
    for shape in scene.all_shapes:
        _draw_shape(draw, shape, size_px, rng)
        draw_digit(image, glyph_box(shape), shape.digit, rng)
    blotches = rng.normal(0, 14, size=(128, 128, 3))
    noise = Image.fromarray(np.clip(blotches + 128, 0, 255).astype(np.uint8))
    return ImageChops.add(image, noise.resize(image.size, Image.Resampling.NEAREST), offset=-128)


def _pixels(box: Box, size_px: int) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = (round(value * size_px) for value in box.coordinates)
    return x1, y1, x2, y2


def _draw_shape(draw: ImageDraw.ImageDraw, shape: Shape, size_px: int, rng: np.random.Generator) -> None:
    x1, y1, x2, y2 = _pixels(shape.box, size_px)
    middle_x, middle_y = (x1 + x2) // 2, (y1 + y2) // 2
    fill = tuple(int(np.clip(level + rng.integers(-20, 21), 0, 255)) for level in COLORS[shape.color])
    if shape.form == "square":
        inset = (x2 - x1) // 12
        draw.rectangle((x1 + inset, y1 + inset, x2 - inset, y2 - inset), fill=fill)
    elif shape.form == "triangle":
        draw.polygon([(middle_x, y1), (x2, y2), (x1, y2)], fill=fill)
    else:
        arm = (x2 - x1) // 5
        draw.rectangle((middle_x - arm, y1, middle_x + arm, y2), fill=fill)
        draw.rectangle((x1, middle_y - arm, x2, middle_y + arm), fill=fill)


def glyph_box(shape: Shape) -> Box:
    """The box of the digit on `shape`, in UNIT of the scene: centred, in triangles a little lower."""
    height, width = shape.print_height, shape.print_height * 0.62
    middle_x = (shape.box.x1 + shape.box.x2) / 2
    middle_y = shape.box.y1 + shape.box.height * (0.6 if shape.form == "triangle" else 0.5)
    return Box(middle_x - width / 2, middle_y - height / 2, middle_x + width / 2, middle_y + height / 2, Frame.UNIT)


def draw_digit(image: Image.Image, glyph: Box, digit: int, rng: np.random.Generator) -> None:
    """The digit dark on a light plate; random contrast keeps the plate's mean brightness from telling the digit.

    `glyph` (UNIT) is where the digit itself stands, in a square image.
    """
    size_px = image.width
    bits = np.array([int(bit) for bit in GLYPHS[digit]]).reshape(5, 3)
    light, dark = int(rng.integers(200, 256)), int(rng.integers(0, 90))
    cells = np.full((7, 5), light, dtype=np.uint8)
    cells[1:6, 1:4] = np.where(bits, dark, light)
    x1, y1, x2, y2 = glyph.coordinates
    margin_x, margin_y = (x2 - x1) / 3, (y2 - y1) / 5
    left, top = round((x1 - margin_x) * size_px), round((y1 - margin_y) * size_px)
    width, height = round((x2 - x1 + 2 * margin_x) * size_px), round((y2 - y1 + 2 * margin_y) * size_px)
    plate = (
        Image.fromarray(cells)
        .resize((width * 4, height * 4), Image.Resampling.NEAREST)
        .resize((width, height), Image.Resampling.BOX)
    )
    image.paste(plate.convert("RGB"), (left, top))
