"""The chain builder's roles by a chat model, and by a function of the user's own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from fovea.images import PixelLimits, fit
from fovea.placeholders import IMAGE_LABEL
from synthesis.agent.chats import Asked, json_in, user_message
from synthesis.agent.functions import by_name
from synthesis.agent.roles import RoleError, Usage
from synthesis.chains.roles import MAX_TOKENS, Link, Profile

MAX_PIXELS = 2**20
"""Pictures are sent at this size at most."""
WORDS = {
    "extract": "Describe this image as JSON: "
    '{{"overview": one sentence, "background": a few words, "objects": [{{"name": …, "attributes": [colour, material, '
    'text on it, position, …]}}, …], "interactions": [what objects do with each other, …]}}.',
    "connect": "Two images, by their descriptions.\nFirst: {first}\nSecond: {second}\nDo they share an object or belong"
    ' to one event? Answer as JSON: {{"connected": true or false, "by": a few words on what connects them}}.',
    "annotate": "Both images have to do with this: {shared}\nHow does the first relate to the second? Answer as JSON: "
    '{{"kind": "temporal" (one is earlier), "spatial" (where things are), "semantic" (theme, logic, cause) or "none", '
    '"sentence": one sentence, "earlier": "first" or "second" if it is temporal}}.',
    "ask": "Images, by their descriptions:\n{profiles}\nHow some of them relate:\n{links}\nFor each relation, in this "
    "order, write a question that can only be answered by seeing both of its images, with its answer in a few words. "
    "Then one question that needs all of these answers, without telling them. Speak of images by their numbers. Answer "
    'as JSON: {{"steps": [{{"question": …, "answer": …}}, …], "question": …, "answer": …}} with {count} steps.',
    "look": "{question}\nAnswer in a few words, or write cannot tell if these images do not show it.",
}
"""The words of each role."""


class ChainChat(Asked):
    """All five roles by one chat model."""

    words, most_tokens = WORDS, MAX_TOKENS

    def extract(self, image: Image.Image, usage: Usage) -> Any:
        message = user_message(self._prompt("extract"), self._shown(image))
        return json_in(self._ask("extract", [message], usage), "{}")

    def connect(self, first: Profile, second: Profile, usage: Usage) -> Any:
        both = {"first": json.dumps(first.to_json()), "second": json.dumps(second.to_json())}
        text = self._ask("connect", [user_message(self._prompt("connect", **both))], usage)
        reply = json_in(text, "{}")
        if not isinstance(reply, Mapping) or not isinstance(reply.get("connected"), bool):
            raise RoleError(f"{text[:80]!r} does not say whether they are connected")
        return reply.get("by") if reply["connected"] else None

    def annotate(self, first: Image.Image, second: Image.Image, shared: str, usage: Usage) -> Any:
        images = map(self._shown, (first, second))
        message = user_message(self._prompt("annotate", shared=shared), *images)
        return json_in(self._ask("annotate", [message], usage), "{}")

    def ask(self, profiles: Mapping[int, Profile], links: Sequence[Link], usage: Usage) -> Any:
        shown = [f"Image {number}: {json.dumps(profile.to_json())}" for number, profile in sorted(profiles.items())]
        related = [f"Image {link.first} to image {link.second} ({link.relation.kind}): {link.relation.words}"
                   for link in links]  # fmt: skip
        prompt = self._prompt("ask", profiles="\n".join(shown), links="\n".join(related), count=len(links))
        most = self._most("ask") + 128 * len(links)
        return json_in(self._ask("ask", [user_message(prompt)], usage, max_tokens=most), "{}")

    def look(self, question: str, images: Mapping[int, Image.Image], usage: Usage) -> str:
        shown: list[Image.Image | str] = []
        for number, image in sorted(images.items()):
            shown += [IMAGE_LABEL.format(number), self._shown(image)]
        message = user_message(self._prompt("look", question=question), *shown)
        return self._ask("look", [message], usage)

    def _shown(self, image: Image.Image) -> Image.Image:
        return self.chat.shown(fit(image, PixelLimits(1, MAX_PIXELS, 1)))


@dataclass(frozen=True)
class ChainFunction:
    """A function that receives, by name, what it asks for, in the role that it is named for.

    extract: `image`. connect: `first` and `second`, profiles as JSON objects; it returns words or None. annotate:
    `first` and `second`, images, and `shared`; it returns {"kind", "sentence", "earlier"} or None. ask: `profiles`
    {number: JSON object} and `links` [(number, number, kind, words)]; it returns {"steps": [{"question", "answer"}],
    "question", "answer"}. look: `question` and `images` {number: image}; it returns the answer.
    """

    function: Callable

    def extract(self, image: Image.Image, usage: Usage) -> Any:
        return self._call("extract", usage, image=image.copy())

    def connect(self, first: Profile, second: Profile, usage: Usage) -> Any:
        return self._call("connect", usage, first=first.to_json(), second=second.to_json())

    def annotate(self, first: Image.Image, second: Image.Image, shared: str, usage: Usage) -> Any:
        return self._call("annotate", usage, first=first.copy(), second=second.copy(), shared=shared)

    def ask(self, profiles: Mapping[int, Profile], links: Sequence[Link], usage: Usage) -> Any:
        plain = [(link.first, link.second, link.relation.kind.value, link.relation.words) for link in links]
        shown = {number: profile.to_json() for number, profile in profiles.items()}
        return self._call("ask", usage, profiles=shown, links=plain)

    def look(self, question: str, images: Mapping[int, Image.Image], usage: Usage) -> Any:
        return self._call("look", usage, question=question, images={n: image.copy() for n, image in images.items()})

    def _call(self, role: str, usage: Usage, **values: Any) -> Any:
        usage.add(role)
        return by_name(self.function, values)
