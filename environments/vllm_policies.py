"""Policies that vLLM runs: an engine in this process, or a server.

What the engine reads is what the loss will read. Conversations are sent as token ids, and the prompt that comes back,
or the features that the server makes of an image, must have just the tokens that the renderer counted.
"""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import groupby
from typing import Any
from uuid import uuid4

import requests
import torch
from PIL import Image
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from environments.play import Conversation, Reply, Sampling
from environments.rendering import Renderer
from fovea.config import ConfigError
from fovea.images import image_hash

_NEVER = -100.0
"""The bias that keeps a token from being sampled."""
_CURE = "vLLM resizes images in another way, so serve the checkpoint with the processor that training uses"


def start_engine(path: str, **kwargs: Any) -> Any:
    """A `vllm.LLM` of a checkpoint folder or hub id; `kwargs` are its own."""
    try:
        from vllm import LLM
    except ModuleNotFoundError as error:
        raise ConfigError(f"vLLM is not installed ({error}): pip install 'fovea[vllm]'") from None
    ours = {} if torch.cuda.is_available() else cpu_engine_kwargs()
    return LLM(path, logprobs_mode="processed_logprobs", **(ours | kwargs))


def cpu_engine_kwargs() -> dict[str, Any]:
    """What `vllm.LLM` needs on CPU: eager, fp32, one process. Sets the environment variables that the engine reads."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    return {"enforce_eager": True, "dtype": "float32"}


@dataclass
class VllmPolicy:
    """Samples turns from a `vllm.LLM`, which batches as it likes and keeps turns in its prefix cache.

    Each reply carries the log-probabilities of its tokens under the sampling distribution.
    """

    engine: Any
    renderer: Renderer
    sampling: Sampling

    def reply(self, conversations: Sequence[Conversation], *, max_tokens: Sequence[int]) -> list[Reply]:
        from vllm import SamplingParams

        options = _options(self.sampling, self.renderer)
        outputs = self.engine.generate(
            [self._prompt(conversation) for conversation in conversations],
            [SamplingParams(max_tokens=limit, **options) for limit in max_tokens],
            use_tqdm=False,
        )
        replies = []
        for conversation, output in zip(conversations, outputs, strict=True):
            seen, expected = list(output.prompt_token_ids), conversation.token_ids
            if seen != list(expected):
                raise ValueError(
                    f"vLLM reads task {conversation.task.id} as {len(seen)} tokens where the loss will read "
                    f"{len(expected)}: {_CURE}"
                )
            written = output.outputs[0]
            logprobs = [step[token].logprob for step, token in zip(written.logprobs, written.token_ids, strict=True)]
            replies.append(_reply(written.token_ids, logprobs, self.renderer))
        return replies

    def _prompt(self, conversation: Conversation) -> dict[str, Any]:
        """The conversation with each image's run of placeholders as one, which vLLM expands again."""
        image = self.renderer.image_token_id
        ids = [
            token for value, run in groupby(conversation.token_ids) for token in ([image] if value == image else run)
        ]
        prompt: dict[str, Any] = {"prompt_token_ids": ids}
        if conversation.images:
            prompt["multi_modal_data"] = {"image": list(conversation.images)}
            prompt["mm_processor_kwargs"] = _processor_settings(self.renderer)
        return prompt


@dataclass
class VllmServerPolicy:
    """Samples turns from a server at `base_url` (`vllm serve CHECKPOINT --enable-scale-out`, from vLLM 0.30).

    Each process sends its own conversations, so ranks need not agree on their number. An image is sent once and its
    features are remembered (`max_images` of them). Refused connections, time-outs (`timeout_s`) and errors 500 to 504
    are tried again, `num_retries` times with growing pauses.
    """

    base_url: str
    renderer: Renderer
    sampling: Sampling
    num_connections: int = 64
    timeout_s: float = 600.0
    num_retries: int = 5
    max_images: int = 2048

    def __post_init__(self) -> None:
        self.base_url = self.base_url.rstrip("/")
        self._features: dict[str, dict] = {}
        self._session = requests.Session()
        retry = Retry(
            self.num_retries,
            backoff_factor=1,
            status_forcelist=[500, 502, 503, 504],
            allowed_methods=None,
            raise_on_status=False,
        )
        self._session.mount("http", HTTPAdapter(max_retries=retry, pool_maxsize=self.num_connections))
        self._model = self._ask("GET", "/v1/models")["data"][0]["id"]

    def reply(self, conversations: Sequence[Conversation], *, max_tokens: Sequence[int]) -> list[Reply]:
        with ThreadPoolExecutor(self.num_connections) as pool:
            images = {image_hash(image): image for c in conversations for image in c.images}
            missing = [key for key in images if key not in self._features]
            found = pool.map(self._process, [images[key] for key in missing])
            self._features |= dict(zip(missing, found, strict=True))
            replies = list(pool.map(self._continue, conversations, max_tokens))
        while len(self._features) > self.max_images:
            del self._features[next(iter(self._features))]
        return replies

    def _ask(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        """The JSON that the server answers. Raises RuntimeError, with the server's own words if it refuses."""
        try:
            response = self._session.request(method, self.base_url + path, timeout=self.timeout_s, **kwargs)
        except requests.RequestException as error:
            raise RuntimeError(
                f"no answer from {self.base_url}{path} after {self.num_retries} more tries ({error}): is `vllm serve` "
                "running there?"
            ) from None
        if response.status_code == 404:
            raise RuntimeError(f"{self.base_url} does not serve {path}: start `vllm serve` with --enable-scale-out")
        if not response.ok:
            raise RuntimeError(f"{self.base_url}{path} answered {response.status_code}: {response.text[:2000]}")
        return response.json()

    def _process(self, image: Image.Image) -> dict[str, Any]:
        """What the server makes of one image: its hash, its features, and how many tokens they take."""
        content = BytesIO()
        image.save(content, format="PNG")
        url = f"data:image/png;base64,{b64encode(content.getvalue()).decode()}"
        request = {
            "model": self._model,
            "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}],
            "mm_processor_kwargs": _processor_settings(self.renderer),
            "max_tokens": 1,
        }
        return self._ask("POST", "/v1/chat/completions/render", json=request)["features"]

    def _continue(self, conversation: Conversation, limit: int) -> Reply:
        request = {
            "request_id": f"fovea-{uuid4().hex}",
            "model": self._model,
            "token_ids": list(conversation.token_ids),
            "sampling_params": {"max_tokens": limit, **_options(self.sampling, self.renderer)},
        }
        if conversation.images:
            request["features"] = self._place(conversation)
        choice = self._ask("POST", "/inference/v1/generate", json=request)["choices"][0]
        logprobs = [step["logprob"] for step in choice["logprobs"]["content"]]
        return _reply(choice["token_ids"], logprobs, self.renderer)

    def _place(self, conversation: Conversation) -> dict[str, Any]:
        """The features of the conversation's images, each where its run of placeholders stands."""
        runs, start = [], 0
        for token, run in groupby(conversation.token_ids):
            length = len(list(run))
            if token == self.renderer.image_token_id:
                runs.append({"offset": start, "length": length})
            start += length
        parts = [self._features[image_hash(image)] for image in conversation.images]
        made = [part["mm_placeholders"]["image"][0]["length"] for part in parts]
        if made != [run["length"] for run in runs]:
            raise ValueError(
                f"the server makes {made} features of the images of task {conversation.task.id} where the loss will "
                f"read {[run['length'] for run in runs]}: {_CURE}"
            )
        joined = {
            name: {"image": [entry for part in parts for entry in part[name]["image"]]}
            for name in parts[0]
            if name != "mm_placeholders" and parts[0][name]
        }
        return {**joined, "mm_placeholders": {"image": runs}}


def _options(sampling: Sampling, renderer: Renderer) -> dict[str, Any]:
    """The settings that every turn shares, in vLLM's names."""
    never = {token: _NEVER for token in renderer.placeholder_ids}
    return {**asdict(sampling), "logprobs": 0, "logit_bias": never}


def _processor_settings(renderer: Renderer) -> dict[str, Any]:
    """The trainer's pixel limits, as vLLM takes them with each request."""
    return {"size": dict(renderer.processor.image_processor.size)}


def _reply(token_ids: Sequence[int], logprobs: Sequence[float], renderer: Renderer) -> Reply:
    end = renderer.tokenizer.eos_token_id
    return Reply(renderer.written_text(token_ids), tuple(token_ids), token_ids[-1] != end, tuple(logprobs))
