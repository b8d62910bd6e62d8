"""Lessons about several images for the tiny model: conversations about albums, never the zoom protocol.

An album is shown with its images numbered. Then it is asked which image shows something, where in it, how many there
are; closer views are read and compared, as with single scenes.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from fovea.boxes import WHOLE
from fovea.images import PixelLimits
from synthesis.shapes import questions
from synthesis.shapes.albums import Album, sample_album
from synthesis.shapes.scenes import FORMS, NAMES, Name, Scene, Shape, render
from synthesis.tiny.architecture import TOKEN_PX
from synthesis.tiny.conversations import TOO_SMALL, Exchange, Picture, compare, picture_of, read_closely, written_box
from synthesis.tiny.forms import in_some_form, sample_in_some_form

SIZES = (2, 3, 4, 5, 6, 8)
SIZE_SHARES = (0.2, 0.15, 0.2, 0.1, 0.15, 0.2)
MANY = (12, 16, 24)
"""Sizes of albums whose views are small, one time in ten."""


def sample_views(rng: np.random.Generator) -> tuple[Album, tuple[Picture, ...], list[tuple[int, Shape]]]:
    """A fresh album as the model sees it, and up to six shapes that stand once in it, with their images."""
    is_large = rng.random() < 0.1
    size = int(rng.choice(MANY)) if is_large else int(rng.choice(SIZES, p=SIZE_SHARES))
    side = 64 if is_large else int(rng.choice((128, 128, 96, 64)))
    numbers = rng.permutation(np.repeat(np.arange(size), 2))[:6]  # at most two of an image
    names = [NAMES[index] for index in rng.choice(len(NAMES), size=len(numbers), replace=False)]
    placed: dict[int, list[Name]] = {}
    for name, number in zip(names, numbers, strict=True):
        placed.setdefault(int(number), []).append(name)
    album = sample_album(rng, size, placed)
    limits = PixelLimits(256, side * side, TOKEN_PX)
    views = tuple(picture_of(render(scene), WHOLE, limits, scene) for scene in album.scenes)
    return album, views, [album.place_of(name) for name in names]


def sample_album_conversation(rng: np.random.Generator) -> list[Exchange]:
    """A random conversation about an album."""
    album, views, shapes = sample_views(rng)
    exchanges = [*_about_all(album, rng), *(_which(*shape) for shape in shapes), *(_where(*shape) for shape in shapes)]
    exchanges += [_which_of_several(shapes[-2:]), _which_of_several(shapes[1:4])]
    chosen = [exchanges[index] for index in rng.permutation(len(exchanges))[: int(rng.integers(4, 9))]]
    chosen += _closely(album, shapes[:2], rng) if rng.random() < 0.5 else []
    return [replace(chosen[0], album=views), *chosen[1:]]


def sample_album_follow_up(rng: np.random.Generator) -> list[Exchange]:
    """A question that the album cannot answer, the places asked for without their names, and closer views."""
    album, views, shapes = sample_views(rng)
    pair = shapes[: 1 if rng.random() < 0.5 else 2]
    asked = compare(*(shape for _, shape in pair)) if len(pair) == 2 else None
    question = asked.question if asked else questions.read_question(pair[0][1].name)
    exchanges = [Exchange(question, TOO_SMALL, album=views)]
    words = ("Where is it?",) if len(pair) == 1 else ("Where is the first?", "Where is the other?")
    for (number, shape), where in zip(pair, words, strict=True):
        scene = album.scenes[number]
        closer = read_closely(shape, None, scene, render(scene), rng)
        exchanges += [replace(_where(number, shape), question=where), replace(closer, question="And here?")]
    return [*exchanges, replace(asked, question="So?")] if asked else exchanges


def _which(number: int, shape: Shape) -> Exchange:
    return Exchange(questions.which_image_question(shape.name), str(number), looks=((number, shape.box),))


def _which_of_several(shapes: list[tuple[int, Shape]]) -> Exchange:
    question = questions.which_images_question([shape.name for _, shape in shapes])
    looks = tuple((number, shape.box) for number, shape in shapes)
    return Exchange(question, json.dumps([number for number, _ in shapes]), looks=looks)


def _where(number: int, shape: Shape) -> Exchange:
    """The image and the place of a shape, as JSON."""
    answer = json.dumps({"image": number, "bbox_2d": written_box(shape.box), "label": shape.name})
    return Exchange(questions.locate_question(shape.name), answer, looks=((number, shape.box),))


def _about_all(album: Album, rng: np.random.Generator) -> list[Exchange]:
    """Questions on all images: a count, a count in one image, and the image without a form where there is just one."""
    form = FORMS[rng.integers(len(FORMS))]
    places = tuple(
        (n, shape.box) for n, scene in enumerate(album.scenes) for shape in scene.shapes if shape.form == form
    )
    asked = (
        [Exchange(questions.count_in_all_question(form), str(len(places)), looks=places)] if len(places) < 10 else []
    )
    number = int(rng.integers(len(album.scenes)))
    within = tuple(place for place in places if place[0] == number)
    asked.append(Exchange(f"{questions.count_question(form)[:-1]} in image {number}?", str(len(within)), looks=within))
    for other in FORMS:
        without = [n for n, scene in enumerate(album.scenes) if not questions.num_of_form(scene, other)]
        if len(without) == 1:
            asked.append(
                Exchange(questions.image_without_question(other), str(without[0]), looks=((without[0], WHOLE),))
            )
    return asked


def _closely(album: Album, shapes: list[tuple[int, Shape]], rng: np.random.Generator) -> list[Exchange]:
    """Closer views of two shapes, read and compared or summed up."""
    exchanges = []
    for number, shape in shapes:
        scene: Scene = album.scenes[number]
        exchanges.append(read_closely(shape, None, scene, render(scene), rng))
    if len(shapes) == 2:
        pair = [shape for _, shape in shapes]
        total = Exchange(questions.sum_question([shape.name for shape in pair]), str(sum(s.digit for s in pair)))
        exchanges.append(total if rng.random() < 0.3 else compare(*pair))
    return exchanges


def sample_with_albums(rng: np.random.Generator) -> list[Exchange]:
    """Two times in five what the last stage on single scenes is trained on, else an album."""
    if rng.random() < 0.4:
        return sample_in_some_form(rng)
    exchanges = (sample_album_conversation if rng.random() < 0.6 else sample_album_follow_up)(rng)
    return in_some_form(exchanges, rng) if rng.random() < 0.5 else exchanges
