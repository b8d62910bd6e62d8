"""Environments and the renderer of tokens, made from the episode arguments for a model."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from environments.arguments import EpisodeArguments
from environments.registry import ENVIRONMENTS
from environments.rendering import Renderer
from environments.views import ViewSettings
from fovea.boxes import Frame
from fovea.image_store import ImageStore
from fovea.images import PixelLimits
from fovea.models.loading import Model, RemoteModel
from fovea.plugins import load_object


def environment_factory(arguments: EpisodeArguments, model: Model) -> Callable[[], Any]:
    """Makes fresh environments for a model. A class of the user's own is called without arguments.

    Raises:
        ValueError: if the model's processor would resize crops once more, or an environment of the user's own is asked
            to show other crops or views than its own, or there is none of the name.
    """
    replaced = [
        name
        for name, can_be in (("crops", arguments.cuts_crops), ("views", arguments.is_ours))
        if getattr(arguments, name) != "true" and not can_be
    ]
    if replaced:
        raise ValueError(
            f"the environment {arguments.environment} replaces no {replaced[0]}: leave --{replaced[0]} out"
        )
    if not arguments.is_ours:
        if ":" not in arguments.environment:
            known = ", ".join(ENVIRONMENTS)
            raise ValueError(
                f"there is no environment {arguments.environment!r}: use {known}, or yours as package.module:Class or "
                "./file.py:Class"
            )
        return load_object(arguments.environment)
    if not model.limits.sets_tokens and (arguments.environment == "focus" or arguments.max_image_tokens):
        raise ValueError(
            "this model sees an image of any size in tiles of a fixed number of tokens, so that smaller views would "
            "save nothing: leave --max_image_tokens out, and take another environment than focus"
        )
    settings = ViewSettings(
        box_frame(arguments, model),
        model.limits,
        crop_limits(arguments, model.limits),
        padding=arguments.crop_padding,
        crops=arguments.crops,
        views=arguments.views,
        names_frame=isinstance(model, RemoteModel),
        max_image_tokens=arguments.max_image_tokens,
    )
    return partial(ENVIRONMENTS[arguments.environment], settings, ImageStore(max_bytes=arguments.half_cache_bytes))


def box_frame(arguments: EpisodeArguments, model: Model) -> Frame:
    """The frame in which the model writes boxes: the one that was chosen, else its family's."""
    return Frame(arguments.box_frame) if arguments.box_frame else model.frame


def crop_limits(arguments: EpisodeArguments, first_view: PixelLimits) -> PixelLimits:
    """Pixel limits of crops; those of first views unless others were chosen.

    Raises:
        ValueError: for limits beyond those of first views, within which alone the processor leaves images as they are.
    """
    crop = PixelLimits(
        arguments.crop_min_pixels or first_view.min_pixels,
        arguments.crop_max_pixels or first_view.max_pixels,
        first_view.factor,
    )
    if crop.min_pixels < first_view.min_pixels or crop.max_pixels > first_view.max_pixels:
        raise ValueError(
            f"crops of {crop.min_pixels} to {crop.max_pixels} pixels would be resized once more by the processor, "
            f"which leaves {first_view.min_pixels} to {first_view.max_pixels} as they are, and boxes in them would "
            "be off: keep crop_min_pixels and crop_max_pixels within min_pixels and max_pixels"
        )
    return crop


def make_renderer(
    arguments: EpisodeArguments, model: Model, *, token_pooling: int = 1, pixel_pooling: int = 1
) -> Renderer:
    """The renderer of a model's processor, with images whole or pooled.

    Raises:
        ValueError: for a model behind an endpoint, whose tokens are not known.
    """
    if model.processor is None:
        raise ValueError(f"the tokens of {model.name} are not known: it is behind an endpoint")
    return Renderer(
        model.processor,
        max_bytes=arguments.half_cache_bytes,
        end_ids=model.end_ids,
        token_pooling=token_pooling,
        pixel_pooling=pixel_pooling,
    )
