"""The options of `fovea traces chains`."""

from __future__ import annotations

from dataclasses import dataclass, field

from fovea.arguments import PixelArguments
from fovea.config import ConfigError
from synthesis.agent.casting import RoleArguments
from synthesis.arguments import part_of
from synthesis.chains.roles import NAMES


@dataclass(kw_only=True)
class ChainArguments(PixelArguments, RoleArguments):
    """The pictures, the model that the chains are for, the players of the roles, and the number of chains."""

    output_dir: str = field(metadata={"help": "Folder for the stages' files, tasks and traces."})
    images: str = field(
        default="", metadata={"help": "Folder of pictures, or a text file of their paths (default: scenes are drawn)."}
    )
    num_scenes: int = field(default=100, metadata={"help": "Scenes to draw where no pictures are named."})
    model_name_or_path: str = field(
        default="tiny", metadata={"help": "The model to be trained: its processor and frame make the traces."}
    )
    agent: str | None = field(
        default=None,
        metadata={
            "help": "Who plays the roles that no other option names: NAME@https://host/v1 (an OpenAI-compatible "
            "endpoint, OPENAI_API_KEY its key), a model folder or hub id, ./file.py:function, or truth (drawn scenes; "
            "there the default)."
        },
    )
    extract: str | None = field(default=None, metadata={"help": "Who describes an image (a vision-language model)."})
    connect: str | None = field(default=None, metadata={"help": "Who connects two descriptions (a language model)."})
    annotate: str | None = field(default=None, metadata={"help": "Who says how two images relate."})
    ask: str | None = field(default=None, metadata={"help": "Who writes the questions (a language model)."})
    look: str | None = field(default=None, metadata={"help": "Who answers questions in the checks."})
    num_candidates: int = field(
        default=4, metadata={"help": "Pairs that are asked about: each image with so many nearest by their profiles."}
    )
    num_chains: int = field(default=500, metadata={"help": "Paths along which questions are asked, at most."})
    num_images: list[int] = field(default_factory=lambda: [2, 3, 4], metadata={"help": "Images of a path."})
    num_distractors: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Images of an album beside those of its path."}
    )
    max_uses: int = field(default=3, metadata={"help": "Paths on which one pair of images may be."})
    retry_failed: bool = field(default=False, metadata={"help": "Work again on lines that failed."})
    num_workers: int = field(default=16, metadata={"help": "Requests that are under way side by side."})
    stage: str = field(
        default="all", metadata={"help": "One stage alone, as shards need it.", "choices": ["all", *NAMES, "write"]}
    )
    shard: str = field(default="0/1", metadata={"help": "Which part of a stage: 3/16 is the fourth of sixteen."})
    seed: int = field(default=0, metadata={"help": "Seed of scenes, of paths and of the order of images."})

    def __post_init__(self) -> None:
        _, count = part_of(self.shard)
        if count > 1 and self.stage not in NAMES:
            raise ConfigError(f"--shard {self.shard} needs --stage: a stage begins when the one before is whole")
        if min(self.num_images, default=0) < 2 or min(self.num_distractors, default=-1) < 0:
            raise ConfigError("--num_images begins at 2, --num_distractors at 0")
        if min(self.num_candidates, self.max_uses, self.max_asks, self.num_workers) < 1:
            raise ConfigError("--num_candidates, --max_uses, --max_asks and --num_workers begin at 1")
