"""A pool of procedural scenes whose connections, relations and answers are known, and the role that knows them.

Two scenes are connected where the same object stands in both: colour, form and digit. They relate in space if it stands
further left in one of them, in time if it stands lower (things fall), and in meaning else. Sub-questions ask in which
of two images that is; the final question asks how many of such statements hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from fovea.boxes import Box
from fovea.chains import Chain, Step
from fovea.images import image_hash, open_image, write_png
from synthesis.agent.roles import RoleError, Usage
from synthesis.chains.roles import UNKNOWN, Draft, Link, Profile, Relation, RelationKind, SeenObject
from synthesis.shapes.scenes import NAMES, Shape, render, sample_scene

SCENES = "scenes.jsonl"
APART = 0.2
"""Share of the side by which an object has to have moved."""
_WHERE = re.compile(r"In which image does the (\w+ \w+) stand (further left|lower), image (\d+) or image (\d+)\?")
_HOLDS = re.compile(r"the (\w+ \w+) stands (further left|lower) in image (\d+) than in image (\d+)")
_WORDS = {RelationKind.SPATIAL: "further left", RelationKind.TEMPORAL: "lower"}


@dataclass(frozen=True)
class Known:
    """An object of a scene: its name, its digit, and the centre of its box (UNIT)."""

    name: str
    digit: int
    x: float
    y: float

    @classmethod
    def of(cls, shape: Shape) -> Known:
        box: Box = shape.box
        return cls(shape.name, shape.digit, round((box.x1 + box.x2) / 2, 4), round((box.y1 + box.y2) / 2, 4))


def draw_pool(folder: Path, num_scenes: int, seed: int) -> Path:
    """Draws the scenes of a pool into `folder`, and their contents into scenes.jsonl. Returns the images' folder."""
    rng = np.random.default_rng(seed)
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in tqdm(range(num_scenes), desc="scenes"):
        names = [NAMES[index] for index in rng.choice(len(NAMES), size=int(rng.integers(2, 5)), replace=False)]
        scene = sample_scene(rng, num_shapes=len(names), names=names)
        write_png(render(scene), images / f"{number:06d}.png")
        known = [vars(Known.of(shape)) for shape in scene.shapes]
        lines.append(json.dumps({"image": f"images/{number:06d}.png", "objects": known}) + "\n")
    (folder / SCENES).write_text("".join(lines))
    return images


@dataclass
class Truth:
    """Plays every role from what scenes.jsonl says of the images."""

    folder: Path
    _known: dict[str, list[Known]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for line in (self.folder / SCENES).read_text().splitlines():
            row = json.loads(line)
            objects = [Known(**one) for one in row["objects"]]
            self._known[image_hash(open_image(self.folder / row["image"]))] = objects

    def objects(self, image: Image.Image) -> dict[str, Known]:
        """The objects of an image by name.

        Raises:
            RoleError: for an image that is not of the pool.
        """
        key = image_hash(image)
        if key not in self._known:
            raise RoleError("the truth of this image is not known: it is none of the pool's")
        return {one.name: one for one in self._known[key]}

    def extract(self, image: Image.Image, usage: Usage) -> Profile:
        usage.add("extract")
        seen = [SeenObject(one.name.split()[1], (one.name.split()[0], f"digit {one.digit}"))
                for one in self.objects(image).values()]  # fmt: skip
        return Profile(f"{len(seen)} shapes on a noisy ground.", "noise", tuple(seen))

    def connect(self, first: Profile, second: Profile, usage: Usage) -> str | None:
        usage.add("connect")
        shared = sorted(set(map(_named, first.objects)) & set(map(_named, second.objects)))
        return shared[0] if shared else None

    def annotate(self, first: Image.Image, second: Image.Image, shared: str, usage: Usage) -> Relation | None:
        usage.add("annotate")
        one, other = (self.objects(image).get(" ".join(shared.split()[:2])) for image in (first, second))
        return None if one is None or other is None else relation_of(one, other)

    def ask(self, profiles: Mapping[int, Profile], links: Sequence[Link], usage: Usage) -> Draft:
        usage.add("ask")
        steps, statements, num_true = [], [], 0
        for place, link in enumerate(links):
            name, kind = " ".join(link.shared.split()[:2]), link.relation.kind
            is_first = link.relation.words.startswith("in the first")
            answer = link.first if is_first else link.second
            word = _WORDS.get(kind)
            if word is None:
                raise RoleError("a relation of meaning has no question here")
            low, high = link.images
            asked = f"In which image does the {name} stand {word}, image {low} or image {high}?"
            steps.append(Step(asked, link.images, str(answer)))
            claimed = (low, high) if (place + low) % 2 else (high, low)
            statements.append(f"the {name} stands {word} in image {claimed[0]} than in image {claimed[1]}")
            num_true += answer == claimed[0]
        question = f"How many of these statements hold: {'; '.join(statements)}?"
        return Draft(question, Chain(tuple(steps), str(num_true)))

    def look(self, question: str, images: Mapping[int, Image.Image], usage: Usage) -> str:
        usage.add("look")
        if match := _WHERE.fullmatch(question):
            answer = self._where(match[1], match[2], int(match[3]), int(match[4]), images)
            return UNKNOWN if answer is None else str(answer)
        held = [(self._where(name, word, int(one), int(other), images), int(one))
                for name, word, one, other in _HOLDS.findall(question)]  # fmt: skip
        if not held or any(answer is None for answer, _ in held):
            return UNKNOWN
        return str(sum(answer == claimed for answer, claimed in held))

    def _where(self, name: str, word: str, one: int, other: int, images: Mapping[int, Image.Image]) -> int | None:
        """In which of two images the object stands further left, or lower; None if that cannot be told."""
        if one not in images or other not in images:
            return None
        places = [self.objects(images[number]).get(name) for number in (one, other)]
        if places[0] is None or places[1] is None:
            return None
        values = [-place.x if word == "further left" else place.y for place in places if place is not None]
        return one if values[0] > values[1] else other


def relation_of(first: Known, second: Known) -> Relation:
    """The relation between the images of two objects, which are the same object in two places."""
    if abs(first.x - second.x) >= APART:
        where = "first" if first.x < second.x else "second"
        return Relation(RelationKind.SPATIAL, f"in the {where} image the {first.name} stands further left")
    if abs(first.y - second.y) >= APART:
        lower, earlier = ("first", "second") if first.y > second.y else ("second", "first")
        words = f"in the {lower} image the {first.name} has fallen: it is the later one"
        return Relation(RelationKind.TEMPORAL, words, earlier)
    return Relation(RelationKind.SEMANTIC, f"both show the {first.name}")


def _named(one: SeenObject) -> str:
    return f"{one.attributes[0]} {one.name} {one.attributes[1]}" if len(one.attributes) == 2 else one.words


def true_edges(folder: Path) -> dict[frozenset[str], list[Any]]:
    """The pairs of image paths that share an object, with the two objects; for tests and benchmarks."""
    rows = [json.loads(line) for line in (folder / SCENES).read_text().splitlines()]
    holders: dict[tuple[str, int], list[tuple[str, Known]]] = {}
    for row in rows:
        for one in row["objects"]:
            holders.setdefault((one["name"], one["digit"]), []).append((row["image"], Known(**one)))
    edges: dict[frozenset[str], list[Any]] = {}
    for shown in holders.values():
        for place, (image, known) in enumerate(shown):
            for other, another in shown[place + 1 :]:
                edges.setdefault(frozenset((image, other)), []).append((known, another))
    return edges
