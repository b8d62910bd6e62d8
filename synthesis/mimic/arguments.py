"""Options of items that all sources of pictures share."""

from __future__ import annotations

from dataclasses import dataclass, field

from fovea.config import ConfigError
from synthesis.mimic.items import KINDS
from synthesis.mimic.pool import SMALL

LOWEST = {"spread": 1, "distractors": 0, "num_classes": 1, "total": 1, "view_px": 8}
"""The axes, and the least value of each."""
SWEPT = tuple(LOWEST)


@dataclass(kw_only=True)
class ItemArguments:
    """The kinds of questions, and their difficulty."""

    output_dir: str = field(metadata={"help": "Folder for tasks.jsonl and manifest.json."})
    num_tasks: int = field(default=2000, metadata={"help": "Items of each kind; with --sweep for each value."})
    kinds: list[str] = field(default_factory=lambda: list(KINDS), metadata={"help": f"Of {', '.join(KINDS)}."})
    spread: list[int] = field(
        default_factory=lambda: [1, 2, 3],
        metadata={"help": "Images that show what is asked about (common: all, so 2 or more; odd: the minority)."},
    )
    distractors: list[int] = field(
        default_factory=lambda: [0, 2, 4], metadata={"help": "Images beside them (odd: the majority; common: none)."}
    )
    num_classes: list[int] = field(
        default_factory=lambda: [1, 2], metadata={"help": "Classes that are counted together, or listed."}
    )
    total: list[int] = field(
        default_factory=lambda: [1, 2, 3, 4, 5, 6], metadata={"help": "Instances to count; one value balances them."}
    )
    view_px: list[int] | None = field(
        default=None, metadata={"help": "Sides of squares with the pixels of first views (default: no bound)."}
    )
    sweep: str | None = field(default=None, metadata={"help": f"AXIS=VALUE,VALUE,… with one of {', '.join(SWEPT)}."})
    min_area: float = field(default=0.05, metadata={"help": "Share of the image under which an object is small."})
    small: str = field(
        default="image",
        metadata={
            "help": "A small object keeps its image from being asked about its class, or its box is not counted.",
            "choices": list(SMALL),
        },
    )
    seed: int = field(default=0, metadata={"help": "The same seed gives the same items."})

    def __post_init__(self) -> None:
        if set(self.kinds) - set(KINDS) or len(set(self.kinds)) < len(self.kinds) or not self.kinds:
            raise ConfigError(f"--kinds {' '.join(self.kinds)}: use some of {', '.join(KINDS)}, each once")
        if not 0 <= self.min_area < 1 or self.num_tasks < 1:
            raise ConfigError(
                f"--min_area {self.min_area}, --num_tasks {self.num_tasks}: give an area from 0 to 1, and 1 task or "
                "more"
            )
        for name, lowest in LOWEST.items():
            values = self.values_of(name)
            if getattr(self, name) == [] or min(values, default=lowest) < lowest:
                raise ConfigError(f"--{name} {values}: values begin at {lowest}")

    def values_of(self, axis: str) -> list[int]:
        """The values of an axis, those of the sweep included."""
        swept = self.swept()
        return [*(getattr(self, axis) or ()), *(swept[1] if swept is not None and swept[0] == axis else ())]

    def swept(self) -> tuple[str, list[int]] | None:
        """The axis of the sweep and its values.

        Raises:
            ConfigError: for anything else.
        """
        if self.sweep is None:
            return None
        axis, _, words = self.sweep.partition("=")
        values = words.split(",")
        if axis not in SWEPT or not all(value.strip().isdecimal() for value in values) or len(values) < 2:
            raise ConfigError(f"--sweep {self.sweep}: write AXIS=VALUE,VALUE with one of {', '.join(SWEPT)}")
        return axis, sorted({int(value) for value in values})
