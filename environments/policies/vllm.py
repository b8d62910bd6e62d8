"""Policies that vLLM runs: an engine in this process, or a server.

What the engine reads is what the loss will read: conversations are sent as token ids, and the prompt that comes back
must have just the tokens that the renderer counted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import compress, groupby
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import torch
from PIL import Image

from environments.play import Sampling
from environments.policies.turns import ThreadedTurns
from environments.rendering import Renderer
from environments.seats import Conversation, Reply
from fovea.bounded_cache import BoundedCache
from fovea.config import ConfigError
from fovea.endpoint import data_url
from fovea.images import image_hash
from fovea.models.names import resolve_path
from fovea.server import Server

_NEVER = -100.0
"""The bias that keeps a token from being sampled."""


def start_engine(path: str, **kwargs: Any) -> Any:
    """A `vllm.LLM` of a checkpoint folder or hub id; `kwargs` are its own."""
    try:
        from vllm import LLM
    except ModuleNotFoundError as error:
        raise ConfigError(f"vLLM is not installed ({error}): pip install 'fovea[vllm]'") from None
    ours = {} if torch.cuda.is_available() else cpu_engine_kwargs()
    return LLM(path, logprobs_mode="processed_logprobs", **(ours | kwargs))


def cpu_engine_kwargs() -> dict[str, Any]:
    """Arguments of `vllm.LLM` on CPU: eager, fp32, one process. Sets the engine's environment variables."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    return {"enforce_eager": True, "dtype": "float32"}


@dataclass
class VllmPolicy:
    """Samples turns from a `vllm.LLM`, whose engine is stepped here and keeps turns in its prefix cache.

    Each reply carries the log-probabilities of its tokens under the sampling distribution.
    """

    engine: Any
    renderer: Renderer
    sampling: Sampling
    is_stepped: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._under_way: dict[str, Conversation] = {}
        self._ended: list[Any] = []

    def reply(self, conversations: Sequence[Conversation], *, max_tokens: Sequence[int]) -> list[Reply]:
        replies: dict[int, Reply] = {}
        try:
            for conversation, limit in zip(conversations, max_tokens, strict=True):
                self.submit(conversation, max_tokens=limit)
            while self._under_way:
                replies |= {id(conversation): reply for conversation, reply in self.finished()}
        finally:
            self.abandon()
        return [replies[id(conversation)] for conversation in conversations]

    def submit(self, conversation: Conversation, *, max_tokens: int) -> None:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        options = _options(self.sampling, self.renderer)
        params = SamplingParams(
            max_tokens=max_tokens, seed=conversation.turn_seed, output_kind=RequestOutputKind.FINAL_ONLY, **options
        )
        key = f"fovea-{uuid4().hex}"
        self.engine.llm_engine.add_request(key, self._prompt(conversation), params)
        self._under_way[key] = conversation

    def finished(self) -> list[tuple[Conversation, Reply]]:
        """The turns that a step ends; one that was read wrongly raises when the others have been handed out."""
        if not self._ended:
            steps = self.engine.llm_engine.step()
            self._ended = [one for one in steps if one.finished and one.request_id in self._under_way]
        read = [_is_read(self._under_way[output.request_id], output.prompt_token_ids) for output in self._ended]
        good = list(compress(self._ended, read))
        if self._ended and not good:
            _check(self._under_way[self._ended[0].request_id], self._ended[0].prompt_token_ids)
        self._ended = [output for output, is_read in zip(self._ended, read, strict=True) if not is_read]
        return [(self._under_way.pop(output.request_id), self._reply(output)) for output in good]

    def abandon(self) -> None:
        self.engine.llm_engine.abort_request(list(self._under_way))
        self._under_way.clear()
        self._ended.clear()

    def _reply(self, output: Any) -> Reply:
        written = output.outputs[0]
        logprobs = [step[token].logprob for step, token in zip(written.logprobs, written.token_ids, strict=True)]
        return _reply(written.token_ids, logprobs, self.renderer)

    def _prompt(self, conversation: Conversation) -> dict[str, Any]:
        prompt: dict[str, Any] = {"prompt_token_ids": _folded(conversation, self.renderer)}
        if conversation.images:
            prompt["multi_modal_data"] = {"image": list(conversation.images)}
            prompt["mm_processor_kwargs"] = {"size": dict(self.renderer.processor.image_processor.size)}
        return prompt


@dataclass
class VllmServerPolicy(ThreadedTurns):
    """Samples turns from a server at `base_url` (`vllm serve CHECKPOINT --enable-scale-out`, from vLLM 0.30).

    Each process sends its own conversations, so that ranks need not agree on their number. Images travel as PNG under
    their content hash, by which the server remembers them; up to `max_bytes` of PNGs are kept here for later turns.
    """

    base_url: str
    renderer: Renderer
    sampling: Sampling
    num_connections: int = 64
    timeout_s: float = 600.0
    num_retries: int = 5
    max_bytes: int = 2**28
    model: str | None = None
    """The model that the server must run, as --model_name_or_path. A training sends weights and names none."""

    def __post_init__(self) -> None:
        self._urls: BoundedCache[str] = BoundedCache(self.max_bytes, size=len)
        hints = {0: "is `vllm serve` running there?", 404: "start `vllm serve` with --enable-scale-out"}
        self._server = Server(self.base_url, hints, self.num_connections, self.timeout_s, self.num_retries)
        served = self._server.ask("GET", "/v1/models")["data"]
        self._model = served[0]["id"] if self.model is None else _name_of(self.model, served, self.base_url)

    @property
    def num_threads(self) -> int:  # type: ignore[override]
        return self.num_connections

    def request(self, conversation: Conversation, max_tokens: int) -> Callable[[], Reply]:
        parts = [self._part(image) for image in conversation.images]
        return partial(self._continue, conversation, parts, max_tokens)

    def _continue(self, conversation: Conversation, parts: list[dict[str, str]], limit: int) -> Reply:
        request = {
            "request_id": f"fovea-{uuid4().hex}",
            "model": self._model,
            "token_ids": _folded(conversation, self.renderer),
            "content_parts": parts or None,
            "sampling_params": {
                "max_tokens": limit,
                "seed": conversation.turn_seed,
                **_options(self.sampling, self.renderer),
            },
            "return_token_ids": True,
        }
        answer = self._server.ask("POST", "/inference/v1/generate", json=request)
        try:
            seen, choice = answer["prompt_token_ids"], answer["choices"][0]
            written, logprobs = choice["token_ids"], [step["logprob"] for step in choice["logprobs"]["content"]]
        except (KeyError, IndexError, TypeError):
            raise RuntimeError(
                f"{self._server.base_url} answered without tokens or log-probabilities (start it as "
                f"docs/my_cluster.md says): {answer}"
            ) from None
        _check(conversation, seen)
        return _reply(written, logprobs, self.renderer)

    def _part(self, image: Image.Image) -> dict[str, str]:
        key = image_hash(image)
        return {"type": "image_url", "uuid": key, "url": self._urls.get(key, lambda: data_url(image))}


def _options(sampling: Sampling, renderer: Renderer) -> dict[str, Any]:
    """The settings that every turn shares, in vLLM's names."""
    never = {token: _NEVER for token in renderer.placeholder_ids}
    plain = {"repetition_penalty": 1.0, "stop_token_ids": list(renderer.end_ids)}
    return {**asdict(sampling), **plain, "logprobs": 0, "logit_bias": never}


def _folded(conversation: Conversation, renderer: Renderer) -> list[int]:
    """The conversation's tokens with each image's run of placeholders as one, which vLLM expands again."""
    image = renderer.image_token_id
    return [token for value, run in groupby(conversation.token_ids) for token in ([image] if value == image else run)]


def _is_read(conversation: Conversation, seen: Sequence[int] | None) -> bool:
    """Returns True if vLLM read exactly the tokens that the loss will read."""
    return list(seen or ()) == list(conversation.token_ids)


def _check(conversation: Conversation, seen: Sequence[int] | None) -> None:
    """Raises ValueError unless it did."""
    if not _is_read(conversation, seen):
        raise ValueError(
            f"vLLM reads task {conversation.task.id} as {len(seen or ())} tokens where the loss will read "
            f"{len(conversation.token_ids)}: it resizes images in another way, so let it run the checkpoint with the "
            "processor that training uses"
        )


def _reply(token_ids: Sequence[int], logprobs: Sequence[float], renderer: Renderer) -> Reply:
    is_cut = token_ids[-1] not in renderer.end_ids
    return Reply(renderer.written_text(token_ids), tuple(token_ids), is_cut, tuple(logprobs))


def _name_of(model: str, served: Sequence[Mapping[str, Any]], url: str) -> str:
    """The name under which a server runs a model.

    Raises:
        ConfigError: if it does not run it.
    """
    names = {model, resolve_path(model)}
    for one in served:
        root = one.get("root") or one["id"]
        if names & {one["id"], root, str(Path(root).resolve())}:
            return one["id"]
    others = ", ".join(one["id"] for one in served)
    raise ConfigError(
        f"the server at {url} runs {others}, not {model}: start `vllm serve {model} --enable-scale-out`. "
        f"Add --served-model-name {model} where the same model has another path there"
    )
