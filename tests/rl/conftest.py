"""A trainer on the tiny model, for all tests of GRPO."""

import pytest
import torch

from environments.factories import environment_factory
from environments.seats import Limits
from rewards.registry import Reward, RewardKind
from rl.arguments import GRPOArguments
from rl.trainer import ZoomGRPOTrainer
from synthesis.shapes import make_tasks
from tests.training import ON_CPU, by_place


@pytest.fixture
def build(tiny, episode_arguments, tmp_path):
    def make(
        rewards=None,
        *,
        num_tasks=2,
        limits=None,
        model=None,
        processor=None,
        peft_config=None,
        make_environment=None,
        load_reference=None,
        **options,
    ):
        torch.manual_seed(0)
        settings = ON_CPU | dict(
            output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=2, max_steps=1, learning_rate=1e-3
        )
        return ZoomGRPOTrainer(
            model or tiny.network,
            rewards or [Reward("place", RewardKind.GROUP, by_place)],
            GRPOArguments(**(settings | options)),
            train_tasks=make_tasks(num_tasks=num_tasks, seed=31),
            environment_factory=make_environment or environment_factory(episode_arguments, tiny),
            limits=limits or Limits(3, 24, 220),
            processing_class=processor or tiny.processor,
            peft_config=peft_config,
            load_reference=load_reference,
        )

    return make
