"""Settings of episodes, under the same names in every command."""

from __future__ import annotations

from dataclasses import dataclass, field

from environments.focus import OVERVIEW_TOKENS
from environments.registry import ENVIRONMENTS
from environments.seats import Limits
from environments.views import CROP_MODES, VIEW_MODES
from environments.zoom import ZoomEnvironment


@dataclass
class EpisodeArguments:
    """Settings of an episode: its environment, its limits, and the sizes of images and crops."""

    environment: str = field(
        default="zoom",
        metadata={
            "help": "'zoom', 'qwen3_zoom' (the tool that Qwen3-VL was taught), 'focus' (several images shown small, of "
            "which some are brought back at full size), 'chain' (no tools: sub-questions are written out), "
            "'views' (no tools: answered at once), an environment of your own as package.module:Class or "
            "./file.py:Class, or 'none' for GRPO on the column 'prompt' of a dataset, as TRL does it"
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
    max_image_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Visual tokens that the first views of a task may have together: they shrink evenly to it. In the "
            f"environment 'focus' {OVERVIEW_TOKENS} by default."
        },
    )
    crops: str = field(
        default="true",
        metadata={
            "help": "Image that a zoom returns: true, or to probe whether the model looks: noise, blank, a random "
            "place of the image, the same place of another task's image, or the task's own target box.",
            "choices": list(CROP_MODES),
        },
    )
    views: str = field(
        default="true",
        metadata={
            "help": "Image of the first view: true, or blurred, blank to probe what zooms alone are worth.",
            "choices": list(VIEW_MODES),
        },
    )
    image_cache_gib: float = field(
        default=1.0,
        metadata={"help": "Memory for images in GiB a process, half for pixels and half for what the processor made."},
    )

    def limits(self) -> Limits:
        return Limits(self.max_turns, self.max_tokens_per_turn, self.max_episode_tokens)

    @property
    def is_ours(self) -> bool:
        """True if the environment is one of Fovea's, which reads these settings."""
        return self.environment in ENVIRONMENTS

    @property
    def cuts_crops(self) -> bool:
        """True if the environment is one of Fovea's and has the zoom tool."""
        return self.is_ours and issubclass(ENVIRONMENTS[self.environment], ZoomEnvironment)

    @property
    def half_cache_bytes(self) -> int:
        """Half of `image_cache_gib`, in bytes."""
        return int(self.image_cache_gib * 2**29)
