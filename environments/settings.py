"""What a user sets about episodes, under the same names in every command, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from environments.play import Limits, Policy, Sampling
from environments.policies.endpoint import EndpointPolicy
from environments.policies.transformers import TransformersPolicy
from environments.policies.vllm import VllmPolicy, VllmServerPolicy, start_engine
from environments.rendering import Renderer
from environments.zoom import CROP_MODES, ENVIRONMENTS, VIEW_MODES, ZoomSettings
from fovea.arguments import PlayerArguments
from fovea.boxes import Frame
from fovea.endpoint import ChatEndpoint
from fovea.images import ImageStore, PixelLimits
from fovea.models.loading import Model, RemoteModel, resolve_path
from fovea.plugins import load_object
from fovea.runs.directory import settings_of


@dataclass
class EpisodeArguments:
    """How an episode runs: its environment, its limits, and how images and crops reach the model."""

    environment: str = field(
        default="zoom",
        metadata={
            "help": "'zoom', 'qwen3_zoom' (the tool that Qwen3-VL was taught), an environment of your own as "
            "package.module:Class or ./file.py:Class, or 'none' for GRPO on the column 'prompt' of a dataset, as TRL "
            "does it"
        },
    )
    max_turns: int = field(default=4, metadata={"help": "Assistant turns in an episode, the answer included."})
    max_tokens_per_turn: int = field(default=512, metadata={"help": "Tokens an assistant turn may have."})
    max_episode_tokens: int = field(
        default=4096, metadata={"help": "Tokens after the prompt, observations and crops included."}
    )
    box_frame: str | None = field(
        default=None,
        metadata={
            "help": "Frame the model writes boxes in: per_mille, input, unit or original. Default: by model family."
        },
    )
    crop_min_pixels: int | None = field(default=None, metadata={"help": "Smaller crops are scaled up to this area."})
    crop_max_pixels: int | None = field(default=None, metadata={"help": "Larger crops are scaled down to this area."})
    crop_padding: float = field(
        default=1.0, metadata={"help": "Each zoom box is enlarged by this factor (Chain-of-Focus: 1.5)."}
    )
    crops: str = field(
        default="true",
        metadata={
            "help": "What a zoom returns: true, or to probe whether the model looks: noise, blank, a random place of "
            "the image, the same place of another task's image, or the task's own target box.",
            "choices": list(CROP_MODES),
        },
    )
    views: str = field(
        default="true",
        metadata={
            "help": "What the first view shows: true, or blurred, blank to probe what zooms alone are worth.",
            "choices": list(VIEW_MODES),
        },
    )
    image_cache_gib: float = field(
        default=1.0,
        metadata={"help": "Memory for images in GiB a process, half for pixels and half for what the processor made."},
    )

    def limits(self) -> Limits:
        return Limits(self.max_turns, self.max_tokens_per_turn, self.max_episode_tokens)

    def environment_factory(self, model: Model) -> Callable[[], Any]:
        """Makes fresh environments for a model. A class of the user's own is called without arguments.

        Raises:
            ValueError: if the model's processor would resize crops once more, or an environment of the user's own is to
                show other crops or views than its own.
        """
        if not self.cuts_crops:
            if (self.crops, self.views) != ("true", "true"):
                raise ValueError(
                    f"crops and views are replaced in the zoom environment alone, not in {self.environment}"
                )
            return load_object(self.environment)
        first_view = model.limits
        crop = PixelLimits(
            self.crop_min_pixels or first_view.min_pixels,
            self.crop_max_pixels or first_view.max_pixels,
            first_view.factor,
        )
        if crop.min_pixels < first_view.min_pixels or crop.max_pixels > first_view.max_pixels:
            raise ValueError(
                f"crops of {crop.min_pixels} to {crop.max_pixels} pixels would be resized once more by the processor, "
                f"which leaves {first_view.min_pixels} to {first_view.max_pixels} as they are, and boxes in them would "
                "be off: keep crop_min_pixels and crop_max_pixels within min_pixels and max_pixels"
            )
        frame = Frame(self.box_frame) if self.box_frame else model.frame
        settings = ZoomSettings(frame, first_view, crop, padding=self.crop_padding, crops=self.crops, views=self.views,
                                names_frame=isinstance(model, RemoteModel))  # fmt: skip
        return partial(ENVIRONMENTS[self.environment], settings, ImageStore(max_bytes=self._half_cache))

    @property
    def cuts_crops(self) -> bool:
        """Whether the environment is one of ours, whose crops and views can be replaced."""
        return self.environment in ENVIRONMENTS

    def renderer(self, model: Model) -> Renderer:
        """The renderer of a model's processor, within the same memory.

        Raises:
            ValueError: for a model behind an endpoint, whose tokens are not known.
        """
        if model.processor is None:
            raise ValueError(f"the tokens of {model.name} are not known: it is behind an endpoint")
        return Renderer(model.processor, max_bytes=self._half_cache, end_ids=model.end_ids)

    @property
    def _half_cache(self) -> int:
        return int(self.image_cache_gib * 2**29)


TAUGHT = ("environment", "box_frame", "crop_min_pixels", "crop_max_pixels", "crop_padding", "min_pixels", "max_pixels")
"""What a training teaches a model to expect."""


def taught_settings(model: str) -> dict[str, Any]:
    """The settings of `TAUGHT` with which a checkpoint was trained, where the folder of its run says so."""
    folder = Path(model)
    run = folder.parent if folder.name.startswith("checkpoint-") else folder
    settings = settings_of(run)
    chosen = {**settings.get("script", {}), **settings.get("episodes", {})}
    return {name: chosen[name] for name in TAUGHT if chosen.get(name) is not None}


def untaught(model: str, *settings: Any) -> str:
    """How these settings differ from those with which a checkpoint was trained; empty if they do not."""
    now = {name: value for part in settings for name, value in vars(part).items()}
    differing = [
        f"{name} was {value}, is {now.get(name)}"
        for name, value in taught_settings(model).items()
        if now.get(name) != value
    ]
    return f"{model} was trained with other settings: {'; '.join(differing)}" if differing else ""


def make_policy(arguments: PlayerArguments, model: Model, renderer: Renderer | None) -> Policy:
    """What plays: the model itself, vLLM with its checkpoint, or an endpoint, which alone needs no renderer."""
    sampling = Sampling(arguments.temperature)
    if arguments.openai_base_url:
        return EndpointPolicy(ChatEndpoint(arguments.openai_base_url, arguments.model_name_or_path), sampling)
    assert renderer is not None
    if arguments.vllm_server_base_url:
        return VllmServerPolicy(arguments.vllm_server_base_url, renderer, sampling)
    if arguments.use_vllm:
        engine = start_engine(resolve_path(arguments.model_name_or_path), **arguments.engine_kwargs)
        return VllmPolicy(engine, renderer, sampling)
    return TransformersPolicy(model.network, renderer, sampling, batch_size=arguments.batch_size)
