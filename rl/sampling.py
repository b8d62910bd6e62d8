"""Which tasks a step meets: TRL's dataset holds their numbers, and the epoch alone makes their order."""

from __future__ import annotations

from typing import cast

from datasets import Dataset
from trl.trainer.utils import RepeatSampler


def numbered(numbers: range) -> Dataset:
    """TRL's dataset of tasks by their numbers. The environment writes the real prompt."""
    return Dataset.from_list([{"prompt": [{"role": "user", "content": ""}], "task_index": n} for n in numbers])


class EpochSampler(RepeatSampler):
    """TRL's sampler, its order made by the epoch alone: a continued training meets the prompts it would have met."""

    def set_epoch(self, epoch: int) -> None:
        if self.shuffle:
            self.generator.manual_seed(cast(int, self.seed) + epoch)
