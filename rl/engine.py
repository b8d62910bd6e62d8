"""vLLM in training: TRL's `VLLMGeneration`, with what zooming and a machine without a GPU need beyond it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from trl.generation import vllm_generation
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from environments.play import Policy, Sampling
from environments.policies.vllm import VllmPolicy, VllmServerPolicy, cpu_engine_kwargs
from environments.rendering import Renderer
from fovea.replacing import replaced


class Engine(VLLMGeneration):
    """Weights are pushed as TRL pushes them; turns are asked for through the policies of `environments`.

    `engine_kwargs` go to `vllm.LLM` and win over what TRL passes.
    """

    _llm_weights_sleeping: bool

    def __init__(self, *args: Any, engine_kwargs: Mapping[str, Any], **kwargs: Any) -> None:
        self.engine_kwargs = dict(engine_kwargs)
        self._policies: dict[Sampling, Policy] = {}
        super().__init__(*args, **kwargs)

    @property
    def _is_on_cpu(self) -> bool:
        return self.accelerator.device.type == "cpu"

    def _init_vllm(self) -> None:
        if self.mode == "server":
            return super()._init_vllm()
        if self.tensor_parallel_size > 1:
            raise ValueError(
                f"vllm_tensor_parallel_size is {self.tensor_parallel_size}, but colocated engines play their own "
                "rank's episodes: leave it at 1, or serve the model and set vllm_mode=server"
            )
        ours = (cpu_engine_kwargs() if self._is_on_cpu else {}) | self.engine_kwargs
        stock = vllm_generation.LLM
        with replaced(vllm_generation, "LLM", lambda **theirs: stock(**(theirs | ours))):
            super()._init_vllm()

    def sync_weights(self) -> None:
        """Gives the engine the weights of now, and lets it forget what it computed with those before.

        TRL writes into the engine's parameters. The CPU backend has repacked them, so there they go through the
        engine's own loading path. Image features are forgotten too: the vision tower may have been trained.
        """
        if self.mode == "colocate" and self._is_on_cpu:
            from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

            runner = self.llm.llm_engine.model_executor.driver_worker.model_runner
            runner.reload_weights(weights_iterator=((name, w.clone()) for name, w in self._iter_named_params()))
            for layer in runner.get_model().modules():
                if isinstance(layer, ParallelLMHead):  # one tied to the embedding is repacked by nobody else
                    layer.quant_method.process_weights_after_loading(layer)
            self.llm.reset_prefix_cache()
        else:
            super().sync_weights()
        if self.mode == "colocate":
            self.llm.llm_engine.reset_encoder_cache()
        else:  # the first process alone sends them, and nobody may ask for rollouts before they are there
            self.accelerator.wait_for_everyone()

    @contextmanager
    def awake(self) -> Iterator[None]:
        """The engine with its KV cache in place; asleep again afterwards if `vllm_enable_sleep_mode`."""
        sleeps = self.mode == "colocate" and self.enable_sleep_mode
        if sleeps and self._llm_weights_sleeping:
            self.sync_weights()
        if sleeps:
            self.llm.wake_up(tags=["kv_cache"])
        yield
        if sleeps:
            self.llm.sleep(level=2)
            self._llm_weights_sleeping = True

    def policy(self, renderer: Renderer, sampling: Sampling) -> Policy:
        """The policy that writes the turns; each process talks to the server by itself."""
        if self.mode == "colocate":
            return VllmPolicy(self.llm, renderer, sampling)
        if sampling not in self._policies:  # kept for the image features that it remembers
            url = self.server_base_url or f"http://{self.server_host}:{self.server_port}"
            self._policies[sampling] = VllmServerPolicy(url, renderer, sampling)
        return self._policies[sampling]


def engine_of_ours(engine_kwargs: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Inside the block TRL's trainer makes an `Engine`: it makes its engine in its `__init__`, of a class it names."""
    return replaced(grpo_trainer, "VLLMGeneration", partial(Engine, engine_kwargs=engine_kwargs))
