"""Choice of the policy: the model in this process, vLLM, its server, or an endpoint."""

from __future__ import annotations

from environments.play import Policy, Sampling
from environments.policies.endpoint import EndpointPolicy
from environments.policies.transformers import TransformersPolicy
from environments.policies.vllm import VllmPolicy, VllmServerPolicy, start_engine
from environments.rendering import Renderer
from fovea.arguments import PlayerArguments
from fovea.endpoint import ChatEndpoint
from fovea.models.loading import Model
from fovea.models.names import resolve_path


def make_policy(arguments: PlayerArguments, model: Model, renderer: Renderer | None) -> Policy:
    """The policy: the model itself, vLLM with its checkpoint, or an endpoint, which alone needs no renderer."""
    sampling = Sampling(arguments.temperature)
    if arguments.openai_base_url:
        return EndpointPolicy(
            ChatEndpoint(arguments.openai_base_url, arguments.model_name_or_path, num_connections=arguments.batch_size),
            sampling,
        )
    assert renderer is not None
    if arguments.vllm_server_base_url:
        url, name = arguments.vllm_server_base_url, arguments.model_name_or_path
        return VllmServerPolicy(url, renderer, sampling, arguments.batch_size, model=name)
    if arguments.use_vllm:
        engine = start_engine(resolve_path(arguments.model_name_or_path), **arguments.engine_kwargs)
        return VllmPolicy(engine, renderer, sampling)
    return TransformersPolicy(model.network, renderer, sampling, batch_size=arguments.batch_size)
