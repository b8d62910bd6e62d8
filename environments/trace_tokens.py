"""From traces to tokens and masks: the renderer of rollouts, and loss on what the assistant wrote alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any

from environments.rendering import Renderer, images_of
from environments.seats import system_prompt_of, tools_of
from environments.traces import Trace, blocks_of
from fovea.images import PixelLimits, fit


class TraceEncoder:
    """Token ids of traces for a vision-language model.

    The system prompt and the tools are those of `environment`, whatever the file says, so that a cold start learns
    the very prompt that rollouts use. `max_length` refuses longer traces by name; nothing is truncated.
    """

    def __init__(
        self, renderer: Renderer, environment: Any, limits: PixelLimits, *, max_length: int | None = None
    ) -> None:
        self.renderer = renderer
        self.tools: list[Callable] = list(tools_of(environment).values())
        self.system = system_prompt_of(environment)
        self.limits = limits
        self.max_length = max_length

    def encode(self, trace: Trace) -> tuple[list[int], list[int], list]:
        """Token ids, loss mask (1 on assistant tokens, its end token included) and images of one trace.

        Raises:
            ValueError: if no assistant turn is in the trace, or it is longer than `max_length`.
        """
        messages = [self._fitted(message) for message in trace.messages if message["role"] != "system"]
        start = next((i for i, message in enumerate(messages) if message["role"] == "assistant"), None)
        if start is None:
            raise ValueError("a trace has no assistant turn, so that nothing can be learned from it: leave it out")
        opening = [{"role": "system", "content": self.system}, *messages[:start]]
        ids, several = self.renderer.prompt_ids(opening, self.tools), len(images_of(opening)) > 1
        mask = [0] * len(ids)
        for is_written, run in groupby(messages[start:], key=lambda message: message["role"] == "assistant"):
            if is_written:
                new = [token for message in run for token in self.written_ids(message["content"])]
            else:
                new = self.renderer.following_ids(list(run), among_several=several)
            ids += new
            mask += [int(is_written)] * len(new)
        if self.max_length is not None and len(ids) > self.max_length:
            raise ValueError(f"a trace has {len(ids)} tokens, more than max_length {self.max_length}: raise it")
        return ids, mask, images_of(messages)

    def written_ids(self, content: Any) -> list[int]:
        """Token ids of an assistant's turn, its end token included; control tokens spelled in it are characters."""
        text = "".join(block["text"] for block in blocks_of(content))
        tokenizer = self.renderer.tokenizer
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return [*ids, tokenizer.eos_token_id]

    def _fitted(self, message: dict) -> dict:
        """The message with each image at the size in which the model receives it."""
        blocks = [
            {**block, "image": fit(block["image"], self.limits)} if block["type"] == "image" else block
            for block in blocks_of(message["content"])
        ]
        return {**message, "content": blocks}
