"""GRPO on rollouts that are the same however many processes share them: `replay.py OUTPUT_DIR --steps N --batch B`.

Every other task has no image, so that processes differ in images, zooms and turns; with --masked the others have two,
whose tokens do not see each other in two layers. SGD makes the change of the weights their gradient.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from unittest.mock import patch

import torch

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory
from environments.seats import Limits, Reply
from fovea.kernels.image_blocks import block_images
from fovea.models.loading import load_model
from fovea.tasks import AnswerKind, Task
from fovea.training import save_together
from rewards.registry import Reward, RewardKind
from rl.arguments import GRPOArguments
from rl.trainer import ZoomGRPOTrainer
from synthesis.shapes import make_tasks
from synthesis.shapes.albums import make_albums
from tests.training import ON_CPU

CALL = (
    '<think>I zoom in.</think>\n<tool_call>\n{"name": "image_zoom_in_tool", '
    '"arguments": {"bbox_2d": [100, 100, 500, 500], "img_idx": 0}}\n</tool_call>'
)
SCRIPTS = (["<think>a</think>\n<answer>1</answer>"], [CALL, "<answer>2</answer>"], [CALL, CALL, "I see"], ["7"])


class Replay:
    """The k-th rollout of a task always writes the k-th script."""

    def __init__(self, network, renderer, sampling, **_) -> None:
        self.tokenizer = renderer.tokenizer
        self.places: dict[int, int] = {}
        self.counts: Counter[str] = Counter()

    def reply(self, conversations, *, max_tokens):
        replies = []
        for conversation in conversations:
            if id(conversation) not in self.places:
                self.places[id(conversation)] = self.counts[conversation.task.id]
                self.counts[conversation.task.id] += 1
            lines = SCRIPTS[self.places[id(conversation)] % len(SCRIPTS)]
            text = lines[sum(message["role"] == "assistant" for message in conversation.messages)]
            ids = self.tokenizer(text, split_special_tokens=True).input_ids
            replies.append(Reply(text, (*ids, self.tokenizer.eos_token_id)))
        return replies


def by_place(task, episodes):
    return [float(place) for place in range(len(episodes))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output_dir")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True, help="rollouts a process")
    parser.add_argument("--masked", action="store_true")
    args = parser.parse_args()
    model = load_model("tiny")
    if args.masked:
        block_images(model.network, model.processor.tokenizer, [1, 2])
    model.network.model.visual.requires_grad_(False)
    episodes = EpisodeArguments(crop_min_pixels=4096, crop_max_pixels=5120)
    tasks = make_albums(num_tasks=6, seed=4, num_images=[2]) if args.masked else make_tasks(num_tasks=6, seed=4)
    tasks[::2] = [Task(f"text-{n}", (), "What is it?", "7", AnswerKind.TEXT) for n, _ in enumerate(tasks[::2])]
    settings = ON_CPU | dict(
        output_dir=args.output_dir, per_device_train_batch_size=args.batch, num_generations=4, max_steps=args.steps,
        learning_rate=0.05, lr_scheduler_type="constant", optim="sgd", max_grad_norm=0.0,
    )  # fmt: skip
    if "RANK" in os.environ:  # Accelerate takes use_cpu for "no DeepSpeed"
        settings |= {"use_cpu": False, "ddp_backend": "gloo"}
    with patch("rl.playing.TransformersPolicy", Replay):
        trainer = ZoomGRPOTrainer(
            model.network,
            [Reward("place", RewardKind.GROUP, by_place)],
            GRPOArguments(**settings),
            train_tasks=tasks,
            environment_factory=environment_factory(episodes, model),
            limits=Limits(4, 64, 300),
            processing_class=model.processor,
        )
        assert trainer.is_deepspeed_enabled == ("RANK" in os.environ)
        trainer.train()
    save_together(trainer)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
