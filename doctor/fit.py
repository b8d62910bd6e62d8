"""Checks that a training fits into the memory of a GPU, and names options that make it smaller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from trl import ModelConfig

from doctor import memory
from doctor.environment import Subject
from doctor.findings import Note
from doctor.memory import GIB, OVERHEAD, Sharding
from fovea.arguments import VisionArguments
from fovea.kernels.layouts import FAMILIES
from fovea.kernels.packing import Row, split_rows
from fovea.models.loading import FEATURE_BYTES
from fovea.training import ROUNDING_CURE, lost_to_rounding


@dataclass(frozen=True)
class Phase:
    """Memory that one phase takes in addition to memory that is always held, and options that reduce it."""

    name: str
    num_bytes: int
    cures: tuple[str, ...]


@dataclass(frozen=True)
class Launch:
    """The settings of a training, its processes, and the memory of one GPU."""

    model_args: ModelConfig
    args: Any
    """TRL's config of the training."""
    sharding: Sharding
    gpu_gib: float | None
    """Memory of one GPU; None where none is known."""
    vision: VisionArguments = field(default_factory=VisionArguments)

    def dtype(self, network: Any) -> torch.dtype:
        """The type of the weights."""
        return getattr(torch, self.model_args.dtype or "", None) or network.dtype

    @property
    def autocast(self) -> torch.dtype | None:
        return torch.bfloat16 if self.args.bf16 else None

    def num_steps(self, num_examples: int) -> int:
        """Steps of the whole training, of so many rollouts or traces an epoch."""
        steps = self.steps_an_epoch(num_examples) * self.args.num_train_epochs
        return int(self.args.max_steps if self.args.max_steps > 0 else round(steps))

    def steps_an_epoch(self, num_examples: int) -> int:
        args = self.args
        return num_examples // (
            args.per_device_train_batch_size * args.gradient_accumulation_steps * self.sharding.num_processes
        )

    def prepare(self, **options: Any) -> Callable[[Any], Any]:
        """Makes a network what the trainers make of it."""
        checkpointing = self.args.gradient_checkpointing
        return partial(
            memory.as_trained,
            arguments=self.model_args,
            checkpointing=checkpointing,
            train_vision=self.vision.train_vision,
            train_projector=self.vision.train_projector,
            **options,
        )

    @property
    def uncounted(self) -> str:
        """What an estimate leaves out, in words; empty if nothing."""
        return "what a trained vision tower keeps for backward is not counted" if self.vision.train_vision else ""


def exceeded_grpo_memory(note: Note, subject: Subject, prompt_tokens: int, launch: Launch) -> None:
    """A GRPO training whose rollouts or whose loss take more memory than there is."""
    network, args = subject.model.network, launch.args
    if not can_estimate(note, network):
        return
    prepare = launch.prepare(temperature=args.temperature, outputs=("log_probs", "entropy"))
    shared, alone = _loss_bytes(subject, prompt_tokens, launch, prepare)
    whole = prepare(memory.outline(network, launch.dtype(network)))
    held = memory.held_bytes(whole, launch.model_args, args.optim, launch.sharding)
    if args.beta and not launch.model_args.use_peft:
        held["reference"] = held["weights"]
    image_tokens = args.num_rollouts * subject.limits.max_turns * prompt_tokens
    if not (launch.vision.train_vision or launch.vision.train_projector):  # features of a frozen tower are kept
        held["image features"] = min(FEATURE_BYTES, memory.feature_bytes(whole, image_tokens))
    engine = _engine_bytes(launch)
    rollouts = _engine_phase(engine) if args.use_vllm else _rollout_phase(whole, subject, prompt_tokens, launch)
    awake = 0 if args.vllm_enable_sleep_mode else engine
    cures = ["a smaller --max_packed_tokens or --max_episode_tokens"]
    cures += ["--gradient_checkpointing true"] * (not args.gradient_checkpointing)
    cures += ["--vllm_enable_sleep_mode true"] * bool(awake)
    training = Phase("training", awake + (shared if args.shared_prefix else alone), tuple(cures))
    remark = f"nothing shared, training would take {(sum(held.values()) + alone) / GIB:.1f}"
    if args.use_vllm and launch.gpu_gib is None:
        remark += "; without vLLM's share, which is one of the GPU's memory"
    remark = "; ".join(filter(None, (remark, launch.uncounted)))
    exceeded_memory(note, held, [rollouts, training], launch, remark)


def _loss_bytes(subject: Subject, prompt_tokens: int, launch: Launch, prepare: Callable[[Any], Any]) -> tuple[int, int]:
    """Bytes that the loss of a micro-batch keeps for backward: groups in shared rows, and every rollout alone."""
    args, network = launch.args, subject.model.network
    completion = [1] * subject.limits.max_completion_tokens
    size, group = args.per_device_train_batch_size, args.num_generations
    grouped = [Row([1 + number // group] * prompt_tokens, completion, [], 0) for number in range(size)]
    alone = [Row([1 + number] * prompt_tokens, completion, [], 0) for number in range(size)]
    parts = split_rows(grouped, args.max_packed_tokens or float("inf"))
    largest = [grouped[number] for number in max(parts, key=len)]
    shared_bytes, alone_bytes = (
        memory.loss_bytes(prepare, network, launch.dtype(network), rows, autocast=launch.autocast)
        for rows in (largest, alone)
    )
    return shared_bytes, alone_bytes


def _engine_bytes(launch: Launch) -> int:
    """Bytes that vLLM takes of this GPU."""
    is_here = launch.args.use_vllm and launch.args.vllm_mode == "colocate"
    return int(launch.args.vllm_gpu_memory_utilization * (launch.gpu_gib or 0) * GIB) * is_here


def _engine_phase(num_bytes: int) -> Phase:
    return Phase("rollouts", num_bytes, ("a lower --vllm_gpu_memory_utilization",))


def _rollout_phase(whole: Any, subject: Subject, prompt_tokens: int, launch: Launch) -> Phase:
    """Rollouts by the model itself, with caches that are kept."""
    args = launch.args
    together = min(args.rollout_batch_size, args.num_rollouts)
    num_bytes = memory.rollout_bytes(
        whole,
        num_prompts=-(-together // args.num_generations) if args.shared_prefix else together,
        num_rollouts=together,
        prompt_tokens=prompt_tokens,
        episode_tokens=subject.limits.max_completion_tokens,
    )
    if launch.sharding.zero_stage == 3:  # the whole model is gathered to write
        num_bytes += memory.weight_bytes(whole, launch.model_args)
    return Phase("rollouts", num_bytes, ("a smaller --rollout_batch_size",))


def exceeded_sft_memory(note: Note, subject: Subject, trace_tokens: int, launch: Launch) -> None:
    """A cold start whose loss takes more memory than there is."""
    network, args = subject.model.network, launch.args
    if not can_estimate(note, network):
        return
    prepare = launch.prepare()
    rows = [Row([1] * 2, [1] * trace_tokens, [], 0) for _ in range(args.per_device_train_batch_size)]
    loss = memory.loss_bytes(prepare, network, launch.dtype(network), rows, autocast=launch.autocast)
    whole = prepare(memory.outline(network, launch.dtype(network)))
    held = memory.held_bytes(whole, launch.model_args, args.optim, launch.sharding)
    vision = memory.vision_bytes(whole, trace_tokens * len(rows))
    cures = ["a smaller --per_device_train_batch_size, --max_length or --max_pixels"]
    cures += ["--gradient_checkpointing true"] * (not args.gradient_checkpointing)
    exceeded_memory(note, held, [Phase("training", loss + vision, tuple(cures))], launch, launch.uncounted)


def lost_updates(note: Note, network: Any, launch: Launch) -> None:
    """Weights of 16 bits whose updates would round to nothing."""
    is_copied = launch.sharding.zero_stage > 0 or launch.model_args.use_peft
    dtype = launch.dtype(network)
    if not is_copied and (problem := lost_to_rounding(dtype, launch.args.learning_rate)):
        note.warn(problem, f"{ROUNDING_CURE} (--accelerate_config)")
    else:
        note.ok(f"weights in {str(dtype).removeprefix('torch.')} move at a rate of {launch.args.learning_rate:g}")


def can_estimate(note: Note, network: Any) -> bool:
    """Returns True if memory can be estimated for this family, and says so if not."""
    family = network.config.model_type
    if family not in FAMILIES:
        note.warn(
            f"is estimated for {' and '.join(FAMILIES)} only, and this is {family}",
            "train one step with the longest tasks, and read the peak in ledger.json",
        )
    return family in FAMILIES


def exceeded_memory(note: Note, held: dict[str, int], phases: list[Phase], launch: Launch, remark: str = "") -> None:
    """A process that needs more than the GPU has: `held` all the time, and on top of it one phase after another."""
    factor, context = OVERHEAD
    base = sum(held.values())
    parts = " + ".join(f"{name} {size / GIB:.2f}" for name, size in held.items())
    peaks = ", ".join(f"{phase.name} {(base + phase.num_bytes) / GIB:.2f}" for phase in phases)
    summary = f"{parts} GiB; at most: {peaks}" + (f" ({remark})" if remark else "")
    if launch.gpu_gib is None:
        note.ok(f"{summary}; give --gpu_memory_gib to compare it with a GPU")
        return
    need = (base + max(phase.num_bytes for phase in phases)) * factor + context
    if need <= launch.gpu_gib * GIB:
        note.ok(f"{summary}; {need / GIB:.1f} of {launch.gpu_gib:.0f} with overheads")
        return
    room = (launch.gpu_gib * GIB - context) / factor - base
    cures = [cure for phase in phases if phase.num_bytes > max(room, 0) for cure in phase.cures]
    if room < 0:
        arguments = launch.model_args
        is_quantized = arguments.load_in_4bit or arguments.load_in_8bit
        smaller = ["--load_in_4bit true" if arguments.use_peft else "--use_peft true"] * (not is_quantized)
        cures = [*smaller, "more processes under ZeRO-3 (--accelerate_config)", *cures]
    note.fail(f"{summary}; {need / GIB:.1f} with overheads, and there are {launch.gpu_gib:.0f}", "; or ".join(cures))
