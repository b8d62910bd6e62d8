"""Conversations whose first question prescribes the form of all answers, as an instructed model bears it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np

from synthesis.shapes import questions
from synthesis.tiny.conversations import (
    Exchange,
    sample_comparison,
    sample_conversation,
    sample_follow_up,
    sample_reading,
)

WORDS = "the a of in on is are what where how many scene image some one two left right".split()  # noqa: SIM905
"""Words without a meaning here: put before some conversations, so that the model bears a prompt of any length."""
LEADS = ("", "", "", "I see. ", "Let me look. ", "Here it is:\n", "Well, ", "<{0}>{1} {2}.</{0}>\n", "{0} {1} {2}. ")
"""Texts before an answer; {0}, {1} and {2} stand for random words."""
WRAPS = (
    ("", ""),
    ("[", "]"),
    ("(", ")"),
    ("**", "**"),
    ('"', '"'),
    ("Result: ", "."),
    ('{{"result": "', '"}}'),
    ("<{0}>", "</{0}>"),
    ("<{1}>\n", "\n</{1}>"),
    ("<{0}><{1}>", "</{1}></{0}>"),
    ("= ", " =\nDone."),
)
"""Texts on both sides of an answer."""
PLACES = (
    '{{"bbox_2d": {box}, "label": "{label}"}}',
    '{{"label": "{label}", "bbox_2d": {box}}}',
    '{{"bbox_2d": {box}}}',
    "{box}",
    "{label} {box}",
    '{{"what": {{"bbox_2d": {box}}}, "image": 0}}',
    "box: {box}; of: {label}",
)
"""Templates of a place."""
ALBUM_PLACES = (
    '{{"image": {image}, "bbox_2d": {box}, "label": "{label}"}}',
    '{{"bbox_2d": {box}, "label": "{label}", "image": {image}}}',
    '{{"bbox_2d": {box}, "image": {image}}}',
    '{{"what": {{"bbox_2d": {box}, "number": {image}}}}}',
    "image {image}: {box}",
    "{box} in {image}",
    "{label} {box} ({image})",
    '{{"label": "{label}", "image": {image}, "bbox_2d": {box}}}',
    '{{"of": "{label}", "images": [{image}], "box": {box}}}',
    "{label}: [{image}] {box}",
    "the {label} is in {image} at {box}",
)
"""Templates of a place in one of several images."""


NAMELESS = ("And here?", "So?")
"""Questions that follow up without a name."""


@dataclass(frozen=True)
class Form:
    """The form of answers: a lead, then the answer between two marks; places in a template of their own."""

    lead: str
    before: str
    after: str
    place: str

    @classmethod
    def sample(cls, rng: np.random.Generator, places: tuple[str, ...] = PLACES) -> Form:
        words = rng.choice(WORDS, size=3)
        lead = LEADS[rng.integers(len(LEADS))].format(*words)
        before, after = (part.format(*words) for part in WRAPS[rng.integers(len(WRAPS))])
        return cls(lead, before, after, places[rng.integers(len(places))])

    def of_text(self, text: str, *, echo: str = "") -> str:
        return f"{self.lead}{echo}{self.before}{text}{self.after}"

    def of_place(self, box: str, label: str, image: object = 0) -> str:
        return self.of_text(self.place.format(box=box, label=label, image=image))


def in_some_form(exchanges: list[Exchange], rng: np.random.Generator) -> list[Exchange]:
    """The conversation with its answers in a random form that its first question asks for."""
    if not exchanges:
        return []
    has_album = any(exchange.album for exchange in exchanges)
    form = Form.sample(rng, ALBUM_PLACES if has_album else PLACES)
    echoes = rng.random() < 0.3
    repeats = has_album and rng.random() < 0.5

    def written(answer: str, question: str) -> str:
        """The answer in this form. It may first echo itself, and repeat the question or the name."""
        if answer.startswith("{"):
            target = json.loads(answer)
            asked = f"{_asked_of(question, target['label'])} " if repeats else ""
            return asked + form.of_place(json.dumps(target["bbox_2d"]), target["label"], target.get("image", 0))
        said = form.of_text(answer, echo=f"It says {answer}, so " if echoes else "")
        return f"{question} {said}" if repeats and question not in NAMELESS else said

    formed = [replace(exchange, answer=written(exchange.answer, exchange.question)) for exchange in exchanges]
    place = form.of_place("[x1, y1, x2, y2]", "name", "n")
    asked = "question " if repeats else ""
    request = f"Write {asked}{form.of_text('it')} and {asked}{place}."
    return [replace(formed[0], question=f"{request} {formed[0].question}"), *formed[1:]]


def _asked_of(question: str, label: str) -> str:
    """The question, or a question with the object's name if this one has none."""
    return question if label in question else questions.read_question(label)


def sample_in_some_form(rng: np.random.Generator) -> list[Exchange]:
    """One of four kinds of conversation, most of them with the form of the answers prescribed."""
    kinds = (sample_reading, sample_comparison, sample_conversation, sample_follow_up)
    exchanges = kinds[rng.choice(4, p=(0.15, 0.25, 0.2, 0.4))](rng)
    return in_some_form(exchanges, rng) if rng.random() < 0.6 else exchanges
