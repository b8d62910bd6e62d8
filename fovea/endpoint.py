"""Models behind the OpenAI protocol, asked for text: answers remembered, refusals told apart."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from base64 import b64encode
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Lock
from typing import Any

from PIL import Image

from fovea.images import write_png
from fovea.jsonl import append_lines, cut_torn_line, read_jsonl
from fovea.server import EndpointError, RefusedRequest, Server

logger = logging.getLogger(__name__)

OPTIONAL = ("temperature", "top_p", "top_k", "repetition_penalty", "seed")
"""Settings of sampling that endpoints other than vLLM's may not know."""


@dataclass
class ChatEndpoint:
    """A model behind the OpenAI protocol (`/chat/completions` below `base_url`, `/v1` included).

    The key is read from the environment variable `api_key_variable`, if it is set. With `cache`, a JSONL file, an
    answer to the same request is remembered for good, unless it is empty or was cut. A request names its model, and
    not the address: a model that is served elsewhere is the same model. Unless `trusts_name`, the address counts too.
    """

    base_url: str
    model: str
    api_key_variable: str = "OPENAI_API_KEY"
    cache: Path | None = None
    num_connections: int = 16
    trusts_name: bool = True

    def __post_init__(self) -> None:
        key = os.environ.get(self.api_key_variable)
        self.server = Server(
            self.base_url,
            hints={
                0: "is it running there?",
                401: f"set {self.api_key_variable}",
                402: "is there credit left?",
                404: "does the address end in /v1?",
                429: "is there quota left?",
            },
            num_connections=self.num_connections,
            headers={"Authorization": f"Bearer {key}"} if key else {},
        )
        self._lock = Lock()
        self._renamed: dict[str, str] = {}
        self._known: dict[str, dict[str, Any]] = {}
        if self.cache is not None and self.cache.exists():
            cut_torn_line(self.cache)
            self._known = {row["request"]: row["answer"] for row in read_jsonl(self.cache)}

    def chat(self, messages: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
        """The first choice of the completion: `text`, `finish_reason`, and `num_tokens` that were written.

        `num_prompt_tokens` were read for it. `is_cached` says that it was remembered, and cost nothing this time.

        Raises:
            RefusedRequest: if the endpoint refuses this request, or answers it with an error or no text, but answers a
                plain question that is put in the same way.
            EndpointError: if it refuses any request.
        """
        request = {"model": self.model, "messages": messages, **options}
        with_address = _hash_of({"base_url": self.base_url, **request})  # all answers of earlier files are known by it
        request_hash = _hash_of(request) if self.trusts_name else with_address
        for known in (request_hash, with_address):
            if known in self._known:
                return {"num_prompt_tokens": None, **self._known[known], "is_cached": True}
        try:
            answer = self._answer(request)
        except RefusedRequest as refusal:
            self._expect_plain_answer(request, refusal)
            raise
        if self.cache is not None and answer["text"] and is_whole(answer):
            with self._lock:
                self._known[request_hash] = answer
                self.cache.parent.mkdir(parents=True, exist_ok=True)
                append_lines(self.cache, [json.dumps({"request": request_hash, "answer": answer}) + "\n"])
        return {**answer, "is_cached": False}

    def _expect_plain_answer(self, request: dict[str, Any], refusal: RefusedRequest) -> None:
        """Puts a plain question, with an image if the refused request has some, and with the same settings.

        Providers say by the same statuses that they dislike a picture and that an account is empty.

        Raises:
            EndpointError: if it is refused as well, so that the refusal is not the request's own.
        """
        has_image = any(
            part["type"] == "image_url"
            for message in request["messages"]
            if isinstance(message["content"], list)
            for part in message["content"]
        )
        try:
            self._answer({**request, "messages": _plain_question(has_image)})
        except RefusedRequest:
            asked = "a plain question about a plain image" if has_image else "a plain question"
            raise EndpointError(
                f"{refusal}\nIt refuses {asked} too: look at credit, key and settings, and at what {self.model} takes"
            ) from None

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The endpoint's answer in the form of `chat`.

        Raises:
            RefusedRequest: if it refuses this request, or answers it with an error or no text.
            EndpointError: if it refuses any request.
        """
        completion = self._ask(request)
        if isinstance(completion, dict) and completion.get("error"):
            raise RefusedRequest(f"answered with an error: {self.base_url}: {completion['error']!r:.2000}")
        try:
            choice = completion["choices"][0]
            usage = completion.get("usage")
            counts = usage if isinstance(usage, dict) else {}
            written, read = (counts.get(f"{name}_tokens") for name in ("completion", "prompt"))
            answer = {
                "text": _text_of(choice["message"]),
                "finish_reason": choice.get("finish_reason"),
                "num_tokens": written if isinstance(written, int) else None,
                "num_prompt_tokens": read if isinstance(read, int) else None,
            }
        except (KeyError, IndexError, TypeError, AttributeError):
            raise RefusedRequest(f"answered without a choice: {self.base_url}: {completion!r:.2000}") from None
        if not isinstance(answer["text"], str):
            raise RefusedRequest(f"answered without a text: {self.base_url}: {answer['text']!r:.2000}")
        if str(answer["finish_reason"]).lower() == "error":
            raise RefusedRequest(f"answer ended with an error: {self.base_url}: {completion!r:.2000}")
        return answer

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The endpoint's answer; settings that it says it does not take are left out from then on, and told."""
        left_out: list[str] = []
        while True:
            payload = {self._renamed.get(name, name): value for name, value in request.items()}
            payload.pop("", None)
            try:
                answer = self.server.ask("POST", "/chat/completions", json=payload)
            except RefusedRequest as error:
                if "max_completion_tokens" in error.answer and "max_tokens" in payload:
                    self._renamed["max_tokens"] = "max_completion_tokens"
                    continue
                refused_settings = [name for name in OPTIONAL if name in payload and _is_refused(name, error.answer)]
                if "cannot both" in error.answer:  # temperature and top_p: one of them can stay
                    refused_settings = refused_settings[-1:]
                if not refused_settings:
                    for name in left_out:  # that was not the reason
                        self._renamed.pop(name, None)
                    raise
                self._renamed |= dict.fromkeys(refused_settings, "")
                left_out += refused_settings
                continue
            if left_out:
                logger.warning(
                    f"{self.base_url} takes no {', '.join(left_out)}: left out from now on, its own default holds"
                )
            return answer


def _hash_of(request: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _plain_question(has_image: bool) -> list[dict[str, Any]]:
    """Messages to which nobody can object."""
    if not has_image:
        return [{"role": "user", "content": "What is 1 + 1?"}]
    image = {"type": "image_url", "image_url": {"url": data_url(Image.new("RGB", (64, 64), "white"))}}
    return [{"role": "user", "content": [image, {"type": "text", "text": "Which colour is this?"}]}]


def is_whole(answer: dict[str, Any]) -> bool:
    """Returns True if the model itself ended an answer of `ChatEndpoint.chat`: it was not cut or filtered."""
    return str(answer["finish_reason"]).lower() not in CUT


CUT = frozenset(("length", "max_tokens", "model_length", "content_filter", "safety", "abort", "incomplete", "error"))
"""Finish reasons of servers for answers that the model did not end itself."""


def _text_of(message: dict[str, Any]) -> Any:
    """The text of a message. Parts are joined, and calls that the server parsed are written out again."""
    content = message.get("content") or ""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):  # thoughts are parts as well
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    for call in message.get("tool_calls") or ():
        arguments = call["function"]["arguments"]
        arguments = arguments if isinstance(arguments, str) else json.dumps(arguments)
        name = json.dumps(call["function"]["name"])
        content += f'\n<tool_call>\n{{"name": {name}, "arguments": {arguments or "{}"}}}\n</tool_call>'
    return content.strip("\n") if isinstance(content, str) and message.get("tool_calls") else content


_UNKNOWN = (
    "unsupported|unknown|unrecogni[sz]ed|unexpected|not support|not permitted|not allowed|extra|deprecated|must be|"
    "invalid|cannot both"
)


def _is_refused(name: str, answer: str) -> bool:
    """Returns True if a server's refusal names the setting `name` as the reason, and does not only echo it."""
    try:
        body = json.loads(answer)
    except ValueError:
        body = None
    if isinstance(body, dict):
        error = body.get("error")
        if isinstance(error, dict) and error.get("param"):
            return name in re.split(r"\W+", str(error["param"]))
        details = body.get("detail")
        if isinstance(details, list) and all(isinstance(one, dict) and "loc" in one for one in details):
            return any(name in one["loc"] for one in details)
    setting = rf"(?<![\w-])[`'\"]?{name}[`'\"]?(?![\w-])"
    near = r"[^.{}\n]{0,60}"
    return bool(re.search(rf"(?:{_UNKNOWN}){near}{setting}|{setting}{near}(?:{_UNKNOWN})", answer, re.IGNORECASE))


def data_url(image: Image.Image) -> str:
    """An image as a PNG inside a URL."""
    buffer = BytesIO()
    write_png(image, buffer)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"
