"""The two trainers that `benchmarks.grpo` compares: TRL's own and Fovea's, on the same model and scripted rollouts."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from unittest.mock import patch

import torch
from datasets import Dataset
from peft import LoraConfig
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOTrainer

from benchmarks.workload import Scripted, Workload, forced, make_workload
from environments.factories import environment_factory
from environments.prompts import SYSTEM_PROMPT
from environments.rendering import flattened
from environments.zoom import ZoomEnvironment
from fovea.kernels.layouts import without_adapters
from fovea.models.loading import LANGUAGE_LINEARS, Model, freeze_vision
from fovea.tasks import Task
from rewards.registry import Reward, RewardKind
from rl.arguments import GRPOArguments
from rl.trainer import ZoomGRPOTrainer

ATTENTION = [operation for operation in flop_registry if "attention" in str(operation)]
"""Attention operations that PyTorch's counter knows. It knows none on CPU, so attention is counted nowhere."""


def by_place(completions: Sequence[Any], **_: Any) -> list[float]:
    """A reward in which the rollouts of a group differ."""
    return [float(row % 3) for row in range(len(completions))]


def _no_flops(*args: Any, **kwargs: Any) -> int:
    return 0


def _product_flops(a: Sequence[int], b: Sequence[int], *more: Any, **kwargs: Any) -> int:
    """Of a matrix product, also of one with `out_dtype`, which PyTorch's counter refuses (2.11)."""
    return 2 * a[0] * a[1] * b[1]


COUNTED = {
    **dict.fromkeys(ATTENTION, _no_flops),
    torch.ops.aten.mm: _product_flops,
    torch.ops.aten.addmm: lambda bias, a, b, *more, **kwargs: _product_flops(a, b),
}


class Side:
    """One trainer, with counters on its model and a clock on its parts."""

    def __init__(self, trainer: Any, turns: Sequence[Sequence[Sequence[int]]]) -> None:
        self.trainer, self.turns = trainer, turns
        if trainer.args.gradient_checkpointing:  # the Trainer itself does so when it begins to train
            trainer.model.gradient_checkpointing_enable(trainer.args.gradient_checkpointing_kwargs)
        self.network = without_adapters(trainer.accelerator.unwrap_model(trainer.model))
        self.counts: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        trainer._generate = self._timed("rollout", trainer._generate)
        images = trainer.processing_class.image_processor
        images.preprocess = self._counted(images.preprocess)
        tower, language = self.network.model.visual, self.network.model.language_model
        tower.forward = self._timed("vision", tower.forward, self._count_vision)
        language.forward = self._timed("language", language.forward, self._count_language)
        trainer.add_callback(_StepClock(self))
        trainer.remove_callback(PrinterCallback)

    def _timed(self, name: str, function: Callable, count: Callable[..., str | None] | None = None) -> Callable:
        def timed(*args: Any, **kwargs: Any) -> Any:
            suffix = (count and count(*args, **kwargs)) or ""
            started = now()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds[name + suffix] += now() - started

        return timed

    def _counted(self, preprocess: Callable) -> Callable:
        counts = self.counts  # not self: Transformers keeps image processors, and with them all that they refer to

        def counted(images: Any, *args: Any, **kwargs: Any) -> Any:
            counts["preprocessings"] += len(flattened(images))
            return preprocess(images, *args, **kwargs)

        return counted

    def _count_vision(self, hidden_states: torch.Tensor, grid_thw: torch.Tensor, **_: Any) -> None:
        self.counts["vision tokens"] += int(grid_thw.prod(-1).sum()) // 4

    def _count_language(self, *, inputs_embeds: torch.Tensor, **_: Any) -> str:
        rows, length = inputs_embeds.shape[:2]
        self.counts["language tokens"] += rows * length
        return " decode" if length == 1 else ""

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Counters and clocks from zero."""
        self.counts.clear()
        self.seconds.clear()
        with forced(self.network, self.turns):
            yield

    def step(self) -> tuple[float, float, float]:
        """Seconds of one whole training step, of its rollouts, and of their single-token forwards.

        What an earlier step remembered of its images is forgotten: in training each step brings new ones.
        """
        if isinstance(self.trainer, ZoomGRPOTrainer):
            self.trainer.renderer._inputs.clear()
            self.network.model.image_features.features.clear()
        with self.measured():
            self.trainer.train()
        return self.seconds["step"], self.seconds["rollout"], self.seconds["language decode"]

    def loss(self, inputs: dict[str, Any]) -> torch.Tensor:
        trainer = self.trainer
        trainer.model.train()
        trainer.model.zero_grad()
        trainer.current_gradient_accumulation_steps = 1
        return trainer.compute_loss(trainer.model, dict(inputs))

    def loss_seconds(self, inputs: dict[str, Any]) -> float:
        """Seconds of log-probabilities, loss and backward."""
        with self.measured():
            started = now()
            self.loss(inputs).backward()
            return now() - started

    def backward_rate(self, inputs: dict[str, Any]) -> float:
        """Floating-point operations a second in the backward of the loss, those within attention not counted."""
        loss = self.loss(inputs)
        with FlopCounterMode(display=False, custom_mapping=COUNTED) as counter:
            loss.backward()
        loss = self.loss(inputs)
        started = now()
        loss.backward()
        return counter.get_total_flops() / (now() - started)

    def saved_bytes(self, inputs: dict[str, Any]) -> int:
        """Bytes of distinct storages, weights apart, that autograd keeps for the backward of the loss."""
        weights = {tensor.untyped_storage().data_ptr() for tensor in self.trainer.model.parameters()}
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.loss(inputs)
        return sum(kept.values())

    def logps_and_gradients(self, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the sampled tokens, and all gradients in one vector."""
        logps: list[torch.Tensor] = []
        stock = self.trainer._get_per_token_logps_and_entropies

        def remembered(*args: Any, **kwargs: Any) -> Any:
            result = stock(*args, **kwargs)
            logps.append(result[0].detach())
            return result

        with patch.object(self.trainer, "_get_per_token_logps_and_entropies", remembered):
            self.loss(inputs).backward()
        mask = (inputs["completion_mask"] * inputs.get("tool_mask", 1)).bool()
        gradients = [p.grad.flatten().float() for p in self.trainer.model.parameters() if p.grad is not None]
        return logps[0][mask].float().cpu(), torch.cat(gradients).cpu()


class _StepClock(TrainerCallback):
    def __init__(self, side: Side) -> None:
        self.side = side

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.started = now()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.side.seconds["step"] += now() - self.started


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass(frozen=True)
class Setup:
    """The model that both sides train, and the sizes of its batch."""

    prompt_tokens: int
    completion_tokens: int
    num_generations: int = 8
    num_zooms: int = 2
    num_tasks: int = 1
    lora_r: int = 0
    gradient_checkpointing: bool = False


def make_side(model: Model, setup: Setup, folder: str, *, stock: bool) -> tuple[Side, Workload]:
    """Stock TRL with the fewest cures that let it run (no images in its log of completions), or Fovea.

    The side trains where the model is, in bfloat16 with autocast if its weights are in that type.
    """
    device, dtype = model.network.device.type, model.network.dtype
    settings = dict(
        output_dir=folder, per_device_train_batch_size=setup.num_generations * setup.num_tasks, max_steps=1,
        num_generations=setup.num_generations, gradient_checkpointing=setup.gradient_checkpointing,
        bf16=dtype is torch.bfloat16, use_cpu=device == "cpu", save_strategy="no", logging_strategy="no", report_to=[],
        disable_tqdm=True, seed=0, learning_rate=1e-6, temperature=1.0, beta=0.0,
    )  # fmt: skip
    freeze_vision(model.network)
    work = make_workload(
        model,
        prompt_tokens=setup.prompt_tokens,
        completion_tokens=setup.completion_tokens,
        num_generations=setup.num_generations,
        num_tasks=setup.num_tasks,
        num_zooms=setup.num_zooms,
    )
    factory: Any = environment_factory(work.episodes, model)
    adapter = LoraConfig(r=setup.lora_r, target_modules=LANGUAGE_LINEARS) if setup.lora_r else None
    common: dict[str, Any] = {"processing_class": model.processor, "peft_config": adapter}
    if not stock:
        rewards = [Reward("place", RewardKind.TRL, by_place)]
        common |= {"train_tasks": work.tasks, "environment_factory": factory, "limits": work.limits}
        return Side(ZoomGRPOTrainer(model.network, rewards, GRPOArguments(**settings), **common), work.turns), work
    settings["max_completion_length"] = setup.completion_tokens
    messages = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": ""}]
    rows = [{"prompt": messages, "number": number} for number in range(len(work.tasks))]
    environment_class = type("Environment", (_ByNumber,), {"tasks": work.tasks})
    common |= {
        "train_dataset": Dataset.from_list(rows),
        "environment_factory": partial(environment_class, *factory.args),
    }
    trainer = GRPOTrainer(model.network, cast(Any, by_place), GRPOArguments(**settings), **common)
    trainer.log_multimodal = False
    return Side(trainer, work.turns), work


class _ByNumber(ZoomEnvironment):
    """The environment as TRL takes it: rows of its dataset name tasks by number, images stay out of Arrow."""

    tasks: Sequence[Task] = ()

    def reset(self, *, number: int, **_: Any) -> list[dict[str, Any]]:  # type: ignore[override]
        return super().reset(**self.tasks[number].row())


def matmul_rate(dtype: torch.dtype, device: str) -> float:
    """Floating-point operations a second of the product of two large square matrices, the best of a few."""
    width = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(width, width, dtype=dtype, device=device) for _ in range(2))
    seconds = []
    for _ in range(8):
        started = now()
        a @ b
        seconds.append(now() - started)
    return 2 * width**3 / min(seconds)


def recorded(side: Side, num_generations: int, *, without_model: bool = False) -> dict[str, Any]:
    """One generation of a trainer, every task's group, scored; `without_model`, in Fovea's, the script is not played.

    What comes back is the same either way, and what either trainer's loss takes.
    """
    trainer = side.trainer
    rows = [row for row in trainer.train_dataset for _ in range(num_generations)]
    trainer.model.train()
    if without_model:
        scripted = nullcontext(Scripted(trainer.renderer, side.turns))
        with patch.object(trainer, "policy", lambda mode: scripted):
            return trainer._generate_and_score_completions(rows)
    with side.measured():
        return trainer._generate_and_score_completions(rows)
