"""An OpenAI-compatible server that plays the chain builder's roles by the truth of drawn scenes."""

from __future__ import annotations

import json
import re
from contextlib import AbstractContextManager

from PIL import Image

from benchmarks.serving import scripted_chat
from synthesis.agent.roles import RoleError, Usage
from synthesis.chains.roles import Link, Profile, Relation, RelationKind
from synthesis.chains.truth import Truth


class Endpoint:
    """An OpenAI-compatible server that plays all roles by the truth, in the words of a chat model."""

    def __init__(self, truth: Truth) -> None:
        self.truth, self.num_requests = truth, 0
        self.fails_after: int | None = None

    def reply(self, text: str, images: list[Image.Image]) -> str | None:
        self.num_requests += 1
        if self.fails_after is not None and self.num_requests > self.fails_after:
            return None
        usage = Usage()
        if text.startswith("Describe this image"):
            return f"Here it is:\n```json\n{json.dumps(self.truth.extract(images[0], usage).to_json())}\n```"
        if text.startswith("Two images"):
            first, second = (Profile.from_json(json.loads(line.partition(": ")[2])) for line in text.split("\n")[1:3])
            by = self.truth.connect(first, second, usage)
            return f"<think>Hm.</think>So: {json.dumps({'connected': by is not None, 'by': by})}"
        if text.startswith("Both images"):
            shared = re.search(r"to do with this: (.*)", text)[1]
            relation = self.truth.annotate(*images, shared, usage)
            return json.dumps({"kind": "none"} if relation is None else relation.to_json())
        if text.startswith("Images, by their"):
            found = re.findall(r"Image (\d+) to image (\d+) \((\w+)\): (.*)", text)
            links = []
            for first, second, kind, words in found:
                name = re.search(r"the (\w+ (?:square|triangle|cross))", words)
                shared = name[1] if name else re.search(r"show the (\w+ \w+)", words)[1]
                links.append(Link(int(first), int(second), shared, Relation(RelationKind(kind), words)))
            try:
                draft = self.truth.ask({}, links, usage)
            except RoleError:
                return "I do not know what to ask."
            steps = [{"question": step.question, "answer": int(step.answer)} for step in draft.chain.steps]
            return json.dumps({"steps": steps, "question": draft.question, "answer": draft.chain.answer})
        numbers = [int(number) for number in re.findall(r"Image (\d+): ", text)][: len(images)]
        question = re.search(r"((?:In which image|How many of these)[^\n]*\?)", text)[1]
        return self.truth.look(question, dict(zip(numbers, images, strict=True)), usage)


def served(played: Endpoint, refusal: int = 401) -> AbstractContextManager[str]:
    """The word that casts it in a role, while it is up."""
    return scripted_chat(played.reply, refusal)
