"""The tiny model's pre-training: conversations about scenes, never the zoom protocol.

A conversation shows a scene's first view, asks where things are (answered in Qwen's grounding JSON), how many there
are and which colour they have; then shows crops and asks to read and compare their digits. Every answer carries loss.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from fovea.boxes import WHOLE, Box, View, coverage
from fovea.images import PixelLimits, cut, fit
from synthesis.shapes import questions
from synthesis.shapes.scenes import FORMS, LEGIBLE_PX, Panel, Scene, Shape, glyph_box, render, sample_scene
from synthesis.tiny.architecture import TOKEN_PX

VIEW_SIZES_PX = (128, 128, 128, 128, 96)
CROP_LIMITS = PixelLimits(64 * 64, 80 * 64, TOKEN_PX)
"""Crops reach the tiny model with 16 to 20 visual tokens."""
CHART_SIZES_PX = (64, 80, 96, 128, 128, 160)
TOO_SMALL = "It is too small."
BOX_STEP = 10
"""Boxes are written in per-mille, rounded to this many."""


@dataclass(frozen=True)
class Picture:
    """One image as the model sees it, with what is visible in it: (shape or panel, its box in UNIT of the image)."""

    pixels: np.ndarray
    contents: tuple[tuple[Shape | Panel, Box], ...]


@dataclass(frozen=True)
class Exchange:
    """One question, perhaps with an image before it, and its answer.

    `target` is where the answer lies, in UNIT of the last image shown, or of the first if `in_first`. An `album` is
    shown before the question, its pictures numbered from 0; `looks` are the places in it, by picture, where the answer
    lies.
    """

    question: str
    answer: str
    picture: Picture | None = None
    target: Box | None = None
    in_first: bool = False
    album: tuple[Picture, ...] = ()
    looks: tuple[tuple[int, Box], ...] = ()

    @property
    def pictures(self) -> tuple[Picture, ...]:
        return self.album if self.picture is None else (*self.album, self.picture)


def locate(thing: Shape | Panel, box: Box) -> Exchange:
    """Asks where a thing is; `box` is its place in UNIT of the last image."""
    return Exchange(questions.locate_question(thing.name), grounding(box, thing.name), None, box)


def opened_with(exchanges: list[Exchange], picture: Picture) -> list[Exchange]:
    """The exchanges with `picture` shown before the first."""
    return [replace(exchanges[0], picture=picture), *exchanges[1:]] if exchanges else []


def grounding(box: Box, label: str) -> str:
    """The family's grounding JSON of a UNIT box.

    >>> from fovea.boxes import Frame
    >>> grounding(Box(0.1, 0.2, 0.3, 0.4, Frame.UNIT), "red circle")
    '{"bbox_2d": [100, 200, 300, 400], "label": "red circle"}'
    """
    return json.dumps({"bbox_2d": written_box(box), "label": label})


def written_box(box: Box) -> list[int]:
    """A UNIT box in the numbers that the tiny model writes."""
    return [min(1000, max(0, round(value * 1000 / BOX_STEP) * BOX_STEP)) for value in box.coordinates]


def picture_of(image: Image.Image, region: Box, limits: PixelLimits, scene: Scene) -> Picture:
    """`region` (UNIT of the scene) of the image within `limits`, with the things that lie mostly inside it."""
    pixels = np.asarray(fit(cut(image, region), limits))
    contents = []
    things: list[Shape | Panel] = [*scene.all_shapes, *scene.panels]
    for thing in things:
        if coverage(thing.box, region) > 0.5:
            contents.append((thing, thing.box.relative_to(region)))
    return Picture(pixels, tuple(contents))


def _loose(box: Box, rng: np.random.Generator, *, smallest: float, largest: float) -> Box:
    """A box around `box`, `smallest` to `largest` times its size, a little off centre, inside the scene."""
    factor = rng.uniform(smallest, largest)
    shift = max(0.08, (factor - 1) / 2.5) * box.width
    dx, dy = rng.uniform(-shift, shift, size=2)
    half_width, half_height = box.width / 2 * factor * rng.uniform(0.88, 1.12, size=2)
    x, y = (box.x1 + box.x2) / 2 + dx, (box.y1 + box.y2) / 2 + dy
    return Box(x - half_width, y - half_height, x + half_width, y + half_height, box.frame).clipped(
        View((1, 1), (1, 1))
    )


def sample_conversation(rng: np.random.Generator, *, max_shapes: int = 6) -> list[Exchange]:
    """A random conversation about a fresh scene."""
    with_panel = rng.random() < 0.3
    large_print = not with_panel and rng.random() < 0.15
    num_shapes = int(rng.integers(0 if with_panel else 1, (4 if with_panel else max_shapes) + 1))
    num_panels = int(rng.integers(1, 3)) if with_panel else 0
    scene = sample_scene(rng, num_shapes=num_shapes, num_panels=num_panels, large_print=large_print)
    image = render(scene, size_px=1024 if with_panel else 640)
    side = int(rng.choice(VIEW_SIZES_PX))
    view = picture_of(image, WHOLE, PixelLimits(256, side * side, TOKEN_PX), scene)
    exchanges = _about_view(scene, view, rng)
    return exchanges + (_about_panels(scene, image, rng) if with_panel else _about_crops(scene, image, rng))


def sample_chart(rng: np.random.Generator) -> Picture:
    """An eye chart: so full a scene that nearly every visual token has something to learn from."""
    side = int(rng.choice(CHART_SIZES_PX))
    num_shapes = int(rng.integers(16, 37) if side >= 96 else rng.integers(6, 13))
    scene = sample_scene(rng, num_shapes=num_shapes, large_print=bool(rng.random() < 0.25))
    return picture_of(render(scene, size_px=2 * side), WHOLE, PixelLimits(256, side * side, TOKEN_PX), scene)


def sample_reading(rng: np.random.Generator) -> list[Exchange]:
    """One crop of a shape, drawn as tightly or loosely as boxes may be, and its digit."""
    scene = sample_scene(rng, num_shapes=int(rng.integers(1, 6)))
    return [read_closely(scene.shapes[0], None, scene, render(scene), rng)]


def sample_first_view_reading(rng: np.random.Generator) -> list[Exchange]:
    """A lesson of the control reader: a first view and questions of the families that need a zoom.

    One time in five it is a closer view instead, so that the control keeps reading those.
    """
    if rng.random() < 0.2:
        return sample_reading(rng)
    with_panel = rng.random() < 0.3
    scene = sample_scene(
        rng, num_shapes=int(rng.integers(0 if with_panel else 2, 6 - with_panel)), num_panels=int(with_panel)
    )
    side = 128 if with_panel else int(rng.choice(VIEW_SIZES_PX))
    limits = PixelLimits(256, side * side, TOKEN_PX)
    view = picture_of(render(scene, size_px=1024 if with_panel else 640), WHOLE, limits, scene)
    asked = [
        Exchange(
            questions.read_question(shape.name, panel.name if panel else None), str(shape.digit), None, glyph_box(shape)
        )
        for panel in (None, *scene.panels)
        for shape in (panel.shapes if panel else scene.shapes)
    ]
    shapes = [scene.shapes[i] for i in rng.permutation(len(scene.shapes))[:2]]
    comparison = [compare(*shapes)] if len(shapes) == 2 else []
    shuffled = [asked[i] for i in rng.permutation(len(asked))]
    return opened_with(comparison + shuffled if rng.random() < 0.5 else shuffled + comparison, view)


def compare(first: Shape, second: Shape) -> Exchange:
    larger = "yes" if first.digit > second.digit else "no"
    return Exchange(questions.compare_question(first.name, second.name), larger)


def sample_comparison(rng: np.random.Generator) -> list[Exchange]:
    """Closer views of two shapes, read and compared."""
    scene = sample_scene(rng, num_shapes=int(rng.integers(2, 6)))
    return _about_crops(scene, render(scene), rng)


def sample_picture(rng: np.random.Generator) -> Picture:
    """A picture for the vision tower alone: an eye chart, a crop, or a first view."""
    kind = rng.random()
    if kind < 0.7:
        return sample_chart(rng)
    pictures = [e.picture for e in (sample_reading if kind < 0.85 else sample_conversation)(rng) if e.picture]
    return pictures[rng.integers(len(pictures))]


def sample_follow_up(rng: np.random.Generator) -> list[Exchange]:
    """A question that the first view cannot answer, places that are asked for without their names, and closer views."""
    with_panel = rng.random() < 0.3
    scene = sample_scene(
        rng, num_shapes=int(rng.integers(0 if with_panel else 2, 6 - with_panel)), num_panels=int(with_panel)
    )
    image = render(scene, size_px=1024 if with_panel else 640)
    side = 128 if with_panel else int(rng.choice(VIEW_SIZES_PX))
    view = picture_of(image, WHOLE, PixelLimits(256, side * side, TOKEN_PX), scene)
    if with_panel:
        return opened_with(_follow_into_panel(scene, image, rng), view)
    shapes = [scene.shapes[i] for i in rng.permutation(len(scene.shapes))[:2]]
    if rng.random() < 0.5:
        asked = Exchange(questions.read_question(shapes[0].name), TOO_SMALL)
        return opened_with([asked, *_look_closer("Where is it?", shapes[0], scene, image, rng)], view)
    comparison = compare(*shapes)
    first = _look_closer("Where is the first?", shapes[0], scene, image, rng)
    second = _look_closer("Where is the other?", shapes[1], scene, image, rng)
    asked = replace(comparison, answer=TOO_SMALL)
    return opened_with([asked, *first, *second, replace(comparison, question="So?")], view)


def _look_closer(
    where: str, shape: Shape, scene: Scene, image: Image.Image, rng: np.random.Generator
) -> list[Exchange]:
    """The place of a shape in the first view, and its digit in a closer one."""
    location = replace(locate(shape, shape.box), question=where, in_first=True)
    return [location, replace(read_closely(shape, None, scene, image, rng), question="And here?")]


def _follow_into_panel(scene: Scene, image: Image.Image, rng: np.random.Generator) -> list[Exchange]:
    """A digit in a panel: the panel's place, the shape's place in a view of the panel, the digit."""
    panel = scene.panels[0]
    shape = panel.shapes[rng.integers(len(panel.shapes))]
    region = _loose(panel.box, rng, smallest=0.95, largest=1.6)
    picture = picture_of(image, region, CROP_LIMITS, scene)
    within = locate(shape, shape.box.relative_to(region))
    return [
        Exchange(questions.read_question(shape.name, panel.name), TOO_SMALL),
        replace(locate(panel, panel.box), question="Where is the panel?", in_first=True),
        replace(within, question="Where is it?", picture=picture),
        replace(read_closely(shape, panel.color, scene, image, rng), question="And here?"),
    ]


def _about_view(scene: Scene, view: Picture, rng: np.random.Generator) -> list[Exchange]:
    """Up to four boxes and one or two questions that the first view answers."""
    things = [*scene.shapes, *scene.panels]
    asked = [things[i] for i in rng.permutation(len(things))[:4]]
    locations = [locate(thing, thing.box) for thing in asked]
    form = FORMS[rng.integers(len(FORMS))]
    seen = [Exchange(questions.count_question(form), str(questions.num_of_form(scene, form)))]
    sole = questions.sole_shapes(scene)
    if sole:
        shape = sole[rng.integers(len(sole))]
        seen.append(Exchange(questions.color_question(shape.form), shape.color, None, shape.box))
    legible = [shape for shape in scene.shapes if shape.print_height * view.pixels.shape[0] >= LEGIBLE_PX]
    seen += [
        Exchange(questions.read_question(shape.name), str(shape.digit), None, glyph_box(shape)) for shape in legible[:3]
    ]
    exchanges = locations + [seen[i] for i in rng.permutation(len(seen))[: 2 + len(legible)]]
    return opened_with([exchanges[i] for i in rng.permutation(len(exchanges))], view)


def _about_crops(scene: Scene, image: Image.Image, rng: np.random.Generator) -> list[Exchange]:
    """Two crops read, and compared."""
    shapes = [scene.shapes[i] for i in rng.permutation(len(scene.shapes))[:2]]
    exchanges = [read_closely(shape, None, scene, image, rng) for shape in shapes]
    if len(shapes) == 2:
        exchanges.append(compare(*shapes))
    return exchanges


def _about_panels(scene: Scene, image: Image.Image, rng: np.random.Generator) -> list[Exchange]:
    """A crop of one panel, boxes of the shapes in it, and crops of one of them read."""
    panel = scene.panels[rng.integers(len(scene.panels))]
    region = _loose(panel.box, rng, smallest=0.95, largest=1.3)
    picture = picture_of(image, region, CROP_LIMITS, scene)
    exchanges = opened_with([locate(thing, box) for thing, box in picture.contents if thing in panel.shapes], picture)
    shape = panel.shapes[rng.integers(len(panel.shapes))]
    return [*exchanges, read_closely(shape, panel.color, scene, image, rng)]


def read_closely(
    shape: Shape, panel: str | None, scene: Scene, image: Image.Image, rng: np.random.Generator
) -> Exchange:
    region = _loose(shape.box, rng, smallest=0.6, largest=1.7)
    picture = picture_of(image, region, CROP_LIMITS, scene)
    where = f"{panel} panel" if panel else None
    digit = glyph_box(shape).relative_to(region)
    return Exchange(questions.read_question(shape.name, where), str(shape.digit), picture, digit)


def corpus(rng: np.random.Generator, *, num_conversations: int) -> Iterator[str]:
    """The text of random conversations, for the tokenizer."""
    for _ in range(num_conversations):
        for exchange in sample_conversation(rng):
            yield exchange.question
            yield exchange.answer
