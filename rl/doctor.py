"""`fovea doctor` for GRPO: beside what all trainings need, groups and batches, rewards, log-probabilities, memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from trl.trainer.utils import add_fused_lm_head

from environments import doctor as shared
from environments.doctor import Subject
from environments.play import Sampling, play
from environments.policies import TransformersPolicy
from fovea import memory
from fovea.config import parse
from fovea.doctor import DoctorArguments, Examination, Note
from fovea.memory import GIB, Sharding
from fovea.models import FEATURE_BYTES
from fovea.packing import Row, pack, split_rows
from fovea.shared_prefix import allow_layouts
from fovea.tasks import Task
from rewards.check import remarks, sample_episodes, sample_task
from rewards.registry import RewardKind, load_reward
from rewards.trl_adapter import score
from rl.arguments import ARGUMENTS
from rl.trainer import check_groups


def examine(examination: Examination, words: Sequence[str]) -> str | None:
    """Examines what `train_grpo.py` would do with these words; where the findings are to be written."""
    words = [*words, *([] if torch.cuda.is_available() else ["--use_cpu", "true"])]
    parsed = examination.check("settings", _settings, words)
    if parsed is None:
        return None
    script, episodes, model_args, args, doctor = parsed
    if episodes.environment == "none":
        examination.check("prompts", lambda note: note.ok(f"{len(script.load_prompts())} prompts"))
        return doctor.json
    tasks = examination.check("tasks", lambda note: script.load_tasks())
    if tasks is not None:
        examination.check("tasks", shared.tasks, tasks)
    if script.eval_dataset_name:
        examination.check("held-out tasks", _held_out, script, tasks or [])
    sharding = doctor.sharding()
    examination.check("groups", _groups, args, len(tasks or []), sharding)
    examination.check("rewards", _rewards, script.reward_funcs, args.reward_weights)
    loaded = examination.check("model", lambda note: shared.model(
        note, model_args.model_name_or_path, script, load_weights=doctor.load_weights,
        trust_remote_code=args.trust_remote_code))  # fmt: skip
    if loaded is None:
        return doctor.json
    subject = examination.check("environment", lambda note: Subject.of(*loaded, tasks or [], episodes))
    if subject is None:
        return doctor.json
    examination.check("coordinates", shared.coordinates, subject, episodes.box_frame is not None)
    examination.check("image sizes", shared.sizes, subject)
    if tasks:
        examination.check("prompt", shared.prompt, subject)
        examination.check("loss mask", shared.loss_mask, subject)
        engine_length = args.vllm_max_model_length if args.use_vllm else None
        longest = examination.check("lengths", shared.lengths, subject, engine_length)
        if subject.has_weights:
            examination.check("log-probabilities", log_probabilities, subject)
        if longest:
            examination.check("memory", _memory, subject, longest, args, model_args, sharding, doctor.gpu_memory_gib)
    return doctor.json


def _settings(note: Note, words: Sequence[str]) -> tuple:
    parsed = parse((*ARGUMENTS, DoctorArguments), default_config="tiny_grpo.yaml", arguments=words)
    note.ok("all options are known and agree with each other")
    return parsed


def _held_out(note: Note, script: Any, tasks: Sequence[Task]) -> None:
    """Held-out tasks that are not trained on."""
    held_out = script.read_tasks(script.eval_dataset_name)
    trained = {(task.question, str(task.images)) for task in tasks if all(isinstance(i, str) for i in task.images)}
    both = sum((task.question, str(task.images)) in trained for task in held_out)
    if both:
        note.fail(f"{both} of {len(held_out)} held-out tasks are trained on", "take them out of dataset_name")
    else:
        note.ok(f"{len(held_out)} held-out tasks, none trained on as far as file names tell")


def _groups(note: Note, args: Any, num_tasks: int, sharding: Sharding) -> None:
    """What a step consists of, and whether its groups stay whole."""
    check_groups(args)
    rollouts = args.per_device_train_batch_size * args.steps_per_generation * sharding.num_processes
    prompts = rollouts // args.num_generations
    if num_tasks and num_tasks < prompts:
        note.fail(f"{num_tasks} tasks are fewer than the {prompts} of one step", "give more, or make the batch smaller")
        return
    steps = (
        num_tasks
        * args.num_generations
        // (args.per_device_train_batch_size * args.gradient_accumulation_steps * sharding.num_processes)
    )
    length = f"{args.max_steps} steps" if args.max_steps > 0 else f"{steps * args.num_train_epochs:.0f} steps"
    note.ok(
        f"{prompts} prompts x {args.num_generations} rollouts a generation; {steps} steps an epoch, {length} in all"
    )


def _rewards(note: Note, names: Sequence[str], weights: Sequence[float] | None) -> None:
    """What each reward pays right, wrong, malformed and gaming episodes, and what all of them pay together."""
    if weights is not None and len(weights) != len(names):
        note.fail(f"{len(weights)} reward_weights for {len(names)} reward_funcs {list(names)}", "give one for each")
        return
    episodes = sample_episodes(sample_task())
    total = dict.fromkeys(episodes, 0.0)
    for name, weight in zip(names, weights or [1.0] * len(names), strict=True):
        reward = load_reward(name)
        if reward.kind is RewardKind.MODEL:
            note.warn(f"{name} is a reward model, which only a training runs")
            return
        paid = dict(zip(episodes, score(reward, list(episodes.values())), strict=True))
        if len(set(paid.values())) < 2:
            note.fail(f"{name}: {remarks(paid)[0]}", f"fovea rewards test {name}")
        for kind, value in paid.items():
            total[kind] += weight * (value or 0.0)
    for remark in remarks(total):
        note.warn(f"in all, {remark}", f"fovea rewards test {' '.join(names)}")
    note.ok(
        f"{', '.join(names)}: right {total['right, zoomed to the target']:.2f}, wrong {total['wrong, no zoom']:.2f}"
    )


def log_probabilities(note: Note, subject: Subject) -> None:
    """Whether the loss gives tokens the log-probabilities that they were sampled by, crops included.

    Episodes with a zoom are scored as the trainer scores them and by the model's plain forward; and what the model
    writes greedily, turn by turn from its caches, has to be the likeliest in the loss.
    """
    network, renderer = subject.model.network.float().eval(), subject.renderer
    tasks = subject.some_tasks(3)
    with torch.no_grad():
        rows = [_row(renderer, episode.record) for episode in subject.play(tasks)]
        plain = [_plain_logits(network, renderer, row) for row in rows]
    if not allow_layouts(network):
        note.warn(f"{network.config.model_type} is trained as stock TRL trains it: nothing is shared")
        return
    add_fused_lm_head(network)
    worst = max(
        float(
            (_loss_logps(network, renderer, row) - logits.log_softmax(-1).gather(1, _ids(row)).squeeze(1)).abs().max()
        )
        for row, logits in zip(rows, plain, strict=True)
    )
    policy = TransformersPolicy(network, renderer, Sampling(0.0))
    short = type(subject.limits)(2, min(48, subject.limits.max_tokens_per_turn), subject.limits.max_completion_tokens)
    played = play(policy, tasks, environment_factory=subject.make_environment, limits=short, renderer=renderer)
    same = num = 0
    for episode in played:
        row = _row(renderer, episode.record)
        with torch.no_grad():
            logits = _plain_logits(network, renderer, row)
        logits[:, renderer.placeholder_ids] = -torch.inf
        kept = torch.tensor(episode.record.loss_mask, dtype=torch.bool)
        same += int((logits.argmax(-1) == _ids(row)[:, 0])[kept].sum())
        num += int(kept.sum())
    if worst > 1e-3 or same < 0.98 * num:
        note.fail(
            f"rollouts and loss differ: log-probabilities by {worst:.1e}, {num - same} of {num} greedy tokens",
            "--shared_prefix false, and please report it",
        )
    else:
        note.ok(
            f"loss and plain forward differ by {worst:.1e} at most; {same} of {num} greedy tokens are the likeliest"
        )


def _row(renderer: Any, record: Any) -> Row:
    inputs = [renderer.image_inputs(image) for image in record.images]
    placeholders, num_in_prompt = list(record.prompt_ids).count(renderer.image_token_id), 0
    while placeholders > 0:
        placeholders -= inputs[num_in_prompt].num_tokens
        num_in_prompt += 1
    images = [(image.pixel_values, image.extent) for image in inputs]
    return Row(list(record.prompt_ids), list(record.completion_ids), images, num_in_prompt)


def _ids(row: Row) -> torch.Tensor:
    return torch.tensor(row.completion_ids)[:, None]


def _plain_logits(network: Any, renderer: Any, row: Row) -> torch.Tensor:
    """Logits [completion, vocabulary] of the model's own forward."""
    ids = torch.tensor([row.prompt_ids + row.completion_ids])
    inputs = {"input_ids": ids, "mm_token_type_ids": (ids == renderer.image_token_id).long()}
    if row.images:
        inputs |= {"pixel_values": torch.cat([pixels for pixels, _ in row.images])}
        inputs |= {"image_grid_thw": torch.stack([grid for _, grid in row.images])}
    return network(**inputs).logits[0, len(row.prompt_ids) - 1 : -1].float()


def _loss_logps(network: Any, renderer: Any, row: Row) -> torch.Tensor:
    """Log-probabilities [completion] as the loss computes them, for a group of two such rollouts."""
    with torch.no_grad():
        packed = pack(network, [row, row], image_token_id=renderer.image_token_id)
        found = network(**packed.inputs, fused_lm_head=True).log_probs[0, packed.predicting]
    return found[packed.rows == 0]


def _memory(
    note: Note, subject: Subject, longest: int, args: Any, model_args: Any, sharding: Sharding, limit: float | None
) -> None:
    """What one process needs while it plays and while it trains, and whether that fits."""
    if not shared.can_estimate(note, subject.model.network):
        return
    network, group, episode = subject.model.network, args.num_generations, subject.limits.max_completion_tokens
    dtype = getattr(torch, model_args.dtype or "", None) or network.dtype
    head = {"temperature": args.temperature, "outputs": ("log_probs", "entropy")}
    prepare = partial(memory.as_trained, arguments=model_args, checkpointing=args.gradient_checkpointing, **head)
    size = args.per_device_train_batch_size
    rows = [Row([1 + number // group] * longest, [1] * episode, [], 0) for number in range(size)]
    alone = [Row([1 + number] * longest, [1] * episode, [], 0) for number in range(size)]
    parts = split_rows(rows, args.max_packed_tokens or float("inf"))
    largest = [rows[number] for number in max(parts, key=len)]
    loss, unshared = (memory.loss_bytes(prepare, network, dtype, given) for given in (largest, alone))
    whole = prepare(memory.outline(network, dtype))
    held = memory.held_bytes(whole, args.optim, sharding, in_4bit=model_args.load_in_4bit)
    if args.beta and not model_args.use_peft:
        held["reference"] = held["weights"]
    images = size * args.steps_per_generation * subject.limits.max_turns * longest
    held["image features"] = min(FEATURE_BYTES, memory.feature_bytes(whole, images))
    limit = limit or memory.device_gib()
    cures = ["a smaller --max_packed_tokens or --max_episode_tokens"]
    cures += ["--gradient_checkpointing true"] * (not args.gradient_checkpointing)
    engine = 0
    if args.use_vllm:
        engine = int(args.vllm_gpu_memory_utilization * (limit or 0) * GIB) * (args.vllm_mode == "colocate")
        playing, cure = engine, "a lower --vllm_gpu_memory_utilization"
    else:
        prompts = -(-args.rollout_batch_size // group) * longest
        playing = memory.cache_bytes(whole, args.rollout_batch_size * episode + prompts)
        playing, cure = playing + memory.vision_bytes(whole, prompts), "a smaller --rollout_batch_size"
    awake = 0 if args.vllm_enable_sleep_mode else engine
    cures += ["--vllm_enable_sleep_mode true"] * bool(awake)
    phases = {"rollouts": (playing, [cure]), "training": (awake + loss, cures)}
    shared.memory(note, held, phases, limit, model_args, f"nothing shared, training would take {unshared / GIB:.1f}")
