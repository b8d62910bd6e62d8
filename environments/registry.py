"""The environments of ours, by name."""

from environments.focus import ChainEnvironment, FocusEnvironment
from environments.views import ViewEnvironment
from environments.zoom import Qwen3ZoomEnvironment, ZoomEnvironment

ENVIRONMENTS: dict[str, type[ViewEnvironment]] = {
    "zoom": ZoomEnvironment,
    "qwen3_zoom": Qwen3ZoomEnvironment,
    "focus": FocusEnvironment,
    "chain": ChainEnvironment,
    "views": ViewEnvironment,
}
"""Made of `ViewSettings` and an image store."""
