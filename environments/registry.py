"""The environments of ours, by name."""

from environments.zoom import Qwen3ZoomEnvironment, ZoomEnvironment

ENVIRONMENTS = {"zoom": ZoomEnvironment, "qwen3_zoom": Qwen3ZoomEnvironment}
"""Those that cut crops: made of `ZoomSettings` and an image store."""
