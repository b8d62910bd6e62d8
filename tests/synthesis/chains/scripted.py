"""An OpenAI-compatible server that plays the chain builder's roles by the truth of drawn scenes."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image

from synthesis.agent.roles import RoleError, Usage
from synthesis.chains.roles import Link, Profile, Relation, RelationKind
from synthesis.chains.truth import Truth


class Endpoint:
    """An OpenAI-compatible server that plays all roles by the truth, in the words of a chat model."""

    def __init__(self, truth: Truth) -> None:
        self.truth, self.num_requests = truth, 0
        self.fails_after: int | None = None

    def reply(self, messages: list) -> str:
        images, text = [], ""
        for block in messages[-1]["content"] if isinstance(messages[-1]["content"], list) else [
            {"type": "text", "text": messages[-1]["content"]}
        ]:  # fmt: skip
            if block["type"] == "text":
                text += block["text"]
            else:
                content = base64.b64decode(block["image_url"]["url"].partition(",")[2])
                images.append(Image.open(io.BytesIO(content)).convert("RGB"))
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


@contextmanager
def served(played: Endpoint) -> Iterator[str]:
    """The word that casts it in a role, while it is up."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            played.num_requests += 1
            is_down = played.fails_after is not None and played.num_requests > played.fails_after
            text = "" if is_down else played.reply(request["messages"])
            choice = {"message": {"content": text}, "finish_reason": "stop"}
            body = json.dumps({"choices": [choice], "usage": {"completion_tokens": len(text.split())}}).encode()
            self.send_response(401 if is_down else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"truthful@http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()
