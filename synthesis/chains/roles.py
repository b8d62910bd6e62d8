"""The roles of the chain builder: what each is asked, and what it may answer.

Four stages of Focus-Centric Visual Chain (arXiv 2504.20199, section 3): extract a profile of each image, connect images
by their profiles, annotate how two connected ones relate, and ask along a connected path. A fifth role looks, for the
checks. Whatever a role answers is checked here before it is used, and never evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol

from PIL import Image

from fovea.chains import Chain, Step, problem_of
from synthesis.agent.roles import RoleError, Usage, checked_text

NAMES = ("extract", "connect", "annotate", "ask", "look")
MAX_TOKENS = {"extract": 1024, "connect": 512, "annotate": 512, "ask": 512, "look": 512}
"""Tokens that a chat model may write in each role, its thoughts included; in ask 128 more for each step."""
MAX_OBJECTS = 40
NOTHING = ("", "none", "n/a", "null", "nothing")
UNKNOWN = "cannot tell"
"""The answer of the role `look` where the images do not show it."""


class RelationKind(StrEnum):
    """Kinds of relations between two images: in time, in space, or in meaning."""

    TEMPORAL = "temporal"
    SPATIAL = "spatial"
    SEMANTIC = "semantic"


@dataclass(frozen=True)
class SeenObject:
    """Something in an image, and what it is like."""

    name: str
    attributes: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        return " ".join([*self.attributes, self.name])


@dataclass(frozen=True)
class Profile:
    """The content of an image: overview, background, objects, and interactions."""

    overview: str
    background: str = ""
    objects: tuple[SeenObject, ...] = ()
    interactions: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Profile:
        """The profile of a role or of a file.

        Raises:
            RoleError: for anything else.
        """
        if not isinstance(value, Mapping):
            raise RoleError(f"{value!r:.80} is no profile")
        objects = []
        for one in _items(value.get("objects"))[:MAX_OBJECTS]:
            row = one if isinstance(one, Mapping) else {"name": one}
            if names := _texts(row.get("name")):
                objects.append(SeenObject(names[0], tuple(_texts(row.get("attributes")))))
        background = " ".join(_texts(value.get("background")))
        overview = checked_text(value.get("overview"))
        return cls(overview, background, tuple(objects), tuple(_texts(value.get("interactions"))))


@dataclass(frozen=True)
class Relation:
    """A relation between two images in words; a temporal one names the `earlier` image, "first" or "second"."""

    kind: RelationKind
    words: str
    earlier: str = ""

    def to_json(self) -> dict[str, str]:
        return {"kind": self.kind.value, "sentence": self.words, "earlier": self.earlier}

    def agrees(self, back: Relation) -> bool:
        """True if `back`, the relation with the two images swapped, says the same."""
        swapped = {"first": "second", "second": "first", "": ""}[self.earlier]
        return (back.kind, back.earlier) == (self.kind, swapped)

    @classmethod
    def of(cls, value: Any) -> Relation | None:
        """The relation of a role, {"kind", "sentence", "earlier"}; None where it finds none.

        Raises:
            RoleError: for anything else.
        """
        if value is None or isinstance(value, Relation):
            return value
        kind = str(value.get("kind")).lower() if isinstance(value, Mapping) else ""
        if kind in ("none", ""):
            if isinstance(value, Mapping):
                return None
            raise RoleError(f"{value!r:.80} is no relation")
        if kind not in tuple(RelationKind):
            raise RoleError(f"{kind!r:.40} is none of {', '.join(RelationKind)}")
        earlier = str(value.get("earlier") or "").lower() if kind == RelationKind.TEMPORAL else ""
        if kind == RelationKind.TEMPORAL and earlier not in ("first", "second"):
            raise RoleError("a temporal relation says which image is earlier, first or second")
        return cls(RelationKind(kind), checked_text(value.get("sentence")), earlier)


@dataclass(frozen=True)
class Link:
    """An edge of a path: the numbers of two images, what they share, and how they relate."""

    first: int
    second: int
    shared: str
    relation: Relation

    @property
    def images(self) -> tuple[int, int]:
        return min(self.first, self.second), max(self.first, self.second)


@dataclass(frozen=True)
class Draft:
    """Questions along a path: a sub-question for each edge, and one question that needs them all."""

    question: str
    chain: Chain

    @classmethod
    def of(cls, value: Any, links: Sequence[Link], num_images: int) -> Draft:
        """The draft of a role: {"question", "answer", "steps": [{"question", "answer"}, …]}, a step for each link.

        Raises:
            RoleError: for anything else.
        """
        if isinstance(value, Draft):
            return value
        steps = value.get("steps") if isinstance(value, Mapping) else None
        if not isinstance(steps, (list, tuple)) or len(steps) != len(links):
            raise RoleError(f"{value!r:.80} holds no list of {len(links)} steps")
        if not all(isinstance(step, Mapping) for step in steps):
            raise RoleError(f"{steps!r:.80} are no steps of question and answer")
        made = [Step(_one_line(step, "question"), link.images, _one_line(step, "answer"))
                for step, link in zip(steps, links, strict=True)]  # fmt: skip
        chain = Chain(tuple(made), _one_line(value, "answer"))
        if problem := problem_of(chain, num_images):
            raise RoleError(problem)
        return cls(checked_text(value.get("question")), chain)


class Role(Protocol):
    """All five roles; a player of some of them has those methods alone. `usage` counts what it costs."""

    def extract(self, image: Image.Image, usage: Usage) -> Any:
        """The `Profile` of an image."""

    def connect(self, first: Profile, second: Profile, usage: Usage) -> Any:
        """The things that two images share, by their profiles alone, in words; None if nothing connects them."""

    def annotate(self, first: Image.Image, second: Image.Image, shared: str, usage: Usage) -> Any:
        """The `Relation` of the first image to the second, or its JSON object; None if there is none."""

    def ask(self, profiles: Mapping[int, Profile], links: Sequence[Link], usage: Usage) -> Any:
        """A `Draft` along these links of images, which are spoken of by their numbers."""

    def look(self, question: str, images: Mapping[int, Image.Image], usage: Usage) -> Any:
        """The answer to a question by these numbered images; what cannot be told from them is said so."""


def _items(value: Any) -> Sequence[Any]:
    """The items of a reply's list, which may be a list, one thing, or an object of names and values."""
    if isinstance(value, Mapping):
        return [f"{name} {part}" for name, part in value.items()]
    return value if isinstance(value, (list, tuple)) else [value]


def _texts(value: Any) -> list[str]:
    """The texts in it, numbers as text; what says nothing is left out."""
    plain = [one for one in _items(value) if isinstance(one, (str, int, float))]
    return [text_of_reply(one) for one in plain if str(one).strip().lower() not in NOTHING]


def _one_line(value: Mapping[str, Any], name: str) -> str:
    return " ".join(text_of_reply(value.get(name)).split())


def text_of_reply(value: Any) -> str:
    """A text of a role; numbers are taken as text.

    Raises:
        RoleError: for anything else, true and false included.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return checked_text(str(value) if is_number else value)


def list_of_reply(value: Any) -> list[Any]:
    """A list of a role or of a line.

    Raises:
        RoleError: for anything else, a text included, whose letters would be taken for items.
    """
    if not isinstance(value, (list, tuple)):
        raise RoleError(f"{value!r:.80} is no list")
    return list(value)
