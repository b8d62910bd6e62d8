"""`fovea doctor` for GRPO: beside what all trainings need, groups and batches, rewards, log-probabilities, memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from trl.trainer.utils import add_fused_lm_head

from environments import doctor as shared
from environments.doctor import Subject
from environments.play import Limits, Sampling, play
from environments.policies.transformers import TransformersPolicy
from environments.rendering import Renderer
from environments.taught import untaught
from fovea import memory, preflight
from fovea.doctor import Examination, Note, settings
from fovea.episodes import Episode
from fovea.kernels.layouts import allow_layouts
from fovea.kernels.packing import Row, pack, split_rows, unpad
from fovea.memory import GIB, Sharding
from fovea.models.loading import FEATURE_BYTES
from fovea.preflight import evenly
from fovea.tasks import Task
from rewards.check import remarks, sample_episodes, sample_task
from rewards.registry import Reward, RewardError, RewardKind, load_rewards
from rewards.trl_adapter import score
from rl.arguments import ARGUMENTS
from rl.checks import check_family, check_groups, check_prompt_rewards
from rl.honoured import check_options


def examine(examination: Examination, words: Sequence[str]) -> str | None:
    """Examines what `train_grpo.py` would do with these words; where the findings are to be written."""
    parsed = examination.check("settings", settings, ARGUMENTS, "tiny_grpo.yaml", words)
    if parsed is None:
        return None
    script, episodes, model_args, args, doctor = parsed
    rewards = examination.check("rewards", _rewards, script.reward_funcs, args.reward_weights)
    if episodes.environment == "none":
        examination.check("prompts", _prompts, script, rewards or [])
        return doctor.json
    tasks = examination.check("tasks", lambda note: script.load_tasks())
    if tasks is not None:
        examination.check("tasks", preflight.tasks, tasks)
    if script.eval_dataset_name:
        examination.check("held-out tasks", _held_out, script, tasks or [])
    sharding = examination.check("launch", doctor.sharding) or Sharding()
    examination.check("options", _options, args, episodes)
    examination.check("groups", _groups, args, len(tasks or []), sharding)
    loaded = examination.check("model", lambda note: preflight.model(
        note, model_args.model_name_or_path, script, load_weights=doctor.load_weights,
        trust_remote_code=args.trust_remote_code))  # fmt: skip
    if loaded is None:
        return doctor.json
    examination.check("family", lambda note: check_family(loaded[0].processor))
    subject = examination.check("environment", lambda note: Subject.of(loaded, tasks or [], episodes))
    if subject is None:
        return doctor.json
    examination.check("as taught", _as_taught, model_args.model_name_or_path, script, episodes)
    examination.check("coordinates", shared.coordinates, subject)
    examination.check("image sizes", shared.sizes, subject)
    if tasks:
        examination.check("rewards on tasks", _rewards_on_tasks, subject, rewards or [])
        examination.check("prompt", shared.prompt, subject)
        examination.check("episode", shared.episode, subject)
        engine_length = args.vllm_max_model_length if args.use_vllm else None
        longest = examination.check("lengths", shared.lengths, subject, engine_length)
        if longest:
            examination.check("memory", _memory, subject, longest, args, model_args, sharding, doctor.gpu_memory_gib)
        if subject.has_weights:
            examination.check("log-probabilities", log_probabilities, subject)
    return doctor.json


def _prompts(note: Note, script: Any, rewards: Sequence[Reward]) -> None:
    check_prompt_rewards(rewards)
    note.ok(f"{len(script.load_prompts())} prompts")


def _held_out(note: Note, script: Any, tasks: Sequence[Task]) -> None:
    """Held-out tasks that are not trained on."""
    held_out = script.read_tasks(script.eval_dataset_name)
    trained = {(task.question, str(task.images)) for task in tasks if all(isinstance(i, str) for i in task.images)}
    both = sum((task.question, str(task.images)) in trained for task in held_out)
    if both:
        note.fail(f"{both} of {len(held_out)} held-out tasks are trained on", "take them out of dataset_name")
    else:
        note.ok(f"{len(held_out)} held-out tasks, none trained on as far as file names tell")


def _as_taught(note: Note, model: str, script: Any, episodes: Any) -> None:
    """Whether the checkpoint has learned from images and boxes like those that it will see."""
    if changed := untaught(model, script, episodes):
        note.warn(changed, "give it what it has learned from, or train its cold start anew")
    else:
        note.ok(
            "crop sizes, pixel limits and the frame of boxes are those that the checkpoint has learned from, if any"
        )


def _options(note: Note, args: Any, episodes: Any) -> None:
    """Whether every option of TRL's that is set has its effect."""
    check_options(args, max_episode_tokens=episodes.max_episode_tokens)
    note.ok("every option that is set takes effect")


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


def _rewards(note: Note, names: Sequence[str], weights: Sequence[float] | None) -> list[Reward]:
    """What all rewards together pay right, wrong, malformed and gaming episodes of a sample task."""
    rewards = load_rewards(names)
    if weights is not None and len(weights) != len(names):
        note.fail(f"{len(weights)} reward_weights for {len(names)} reward_funcs {list(names)}", "give one for each")
        return rewards
    episodes = sample_episodes(sample_task())
    total = dict.fromkeys(episodes, 0.0)
    is_whole = True
    for name, reward, weight in zip(names, rewards, weights or [1.0] * len(names), strict=True):
        try:
            paid = score(reward, list(episodes.values()))
        except (RewardError, ValueError) as error:
            note.warn(f"cannot be tried on a sample task: {error}", f"fovea rewards test {name}")
            is_whole = False
            continue
        if len(set(paid)) < 2:
            note.warn(f"{name} pays all sample episodes {paid[0]}: does it see what it is given?",
                      f"fovea rewards test {name}")  # fmt: skip
        total = {kind: total[kind] + weight * (value or 0.0) for kind, value in zip(total, paid, strict=True)}
    if not is_whole:
        return rewards
    if len(set(total.values())) < 2:
        note.fail(f"{remarks(total)[0]}", f"fovea rewards test {' '.join(names)}")
        return rewards
    for remark in remarks(total):
        note.warn(f"in all, {remark}", f"fovea rewards test {' '.join(names)}")
    right, wrong = total["right, zoomed to the target"], total["wrong, no zoom"]
    note.ok(f"{', '.join(names)}: in all {right:.2f} for a right answer after a zoom, {wrong:.2f} for a wrong one")
    return rewards


def _rewards_on_tasks(note: Note, subject: Subject, rewards: Sequence[Reward]) -> None:
    """Calls each reward once on episodes of real tasks: right ones, by the tasks' own references."""
    episodes = subject.play(evenly(subject.tasks, 4))
    for reward in rewards:
        if reward.kind is RewardKind.MODEL:
            note.warn(f"{reward.name} is a reward model, which only the training runs")
            continue
        paid = score(reward, episodes)
        said = ", ".join("not applicable" if value is None else f"{value:.2f}" for value in paid)
        note.ok(f"{reward.name} pays {len(episodes)} right episodes of your tasks {said}")


def log_probabilities(note: Note, subject: Subject) -> None:
    """Whether the loss gives tokens the log-probabilities that they were sampled by, crops included.

    Episodes with a zoom are scored as the trainer scores them and by the model's plain forward; and what the model
    writes greedily, turn by turn from its caches, has to be the likeliest in the loss. The model is float32 from here.
    """
    network, renderer = subject.model.network.float().eval(), subject.renderer
    tasks = evenly(subject.tasks, 3)
    with torch.no_grad():
        rows = [_row(renderer, episode) for episode in subject.play(tasks)]
        plain = [_plain_logits(network, renderer, row) for row in rows]
    if not allow_layouts(network):
        note.warn(f"{network.config.model_type} is trained as stock TRL trains it: nothing is shared")
        return
    add_fused_lm_head(network)
    expected = [logits.log_softmax(-1).gather(1, _ids(row))[:, 0] for row, logits in zip(rows, plain, strict=True)]
    worst = max(
        float((_loss_logps(network, renderer, row) - logps).abs().max())
        for row, logps in zip(rows, expected, strict=True)
    )
    policy = TransformersPolicy(network, renderer, Sampling(0.0))
    short = Limits(2, min(48, subject.limits.max_tokens_per_turn), subject.limits.max_completion_tokens)
    played = play(policy, tasks, environment_factory=subject.make_environment, limits=short, renderer=renderer)
    same = num = 0
    for episode in played:
        row = _row(renderer, episode)
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
        note.ok(f"loss and plain forward differ by {worst:.1e} at most; {same} of {num} greedy tokens are likeliest")


def _row(renderer: Renderer, episode: Episode) -> Row:
    record = episode.record
    batch = renderer.model_inputs([record.prompt_ids + record.completion_ids], [record.images])
    return unpad(
        batch["input_ids"],
        batch["attention_mask"],
        len(record.completion_ids),
        image_token_id=renderer.image_token_id,
        merge_size=renderer.merge_size,
        **{name: batch.get(name) for name in ("pixel_values", "image_grid_thw")},
    )[0]


def _ids(row: Row) -> torch.Tensor:
    return torch.tensor(row.completion_ids)[:, None]


def _plain_logits(network: Any, renderer: Any, row: Row) -> torch.Tensor:
    """Logits [completion, vocabulary] of the model's own forward."""
    ids = torch.tensor([row.prompt_ids + row.completion_ids])
    inputs = {"input_ids": ids, "mm_token_type_ids": (ids == renderer.image_token_id).long()}
    if row.images:
        inputs |= {"pixel_values": torch.cat([pixels for pixels, _ in row.images])}
        inputs |= {"image_grid_thw": torch.stack([grid for _, grid in row.images])}
    return network(**inputs, logits_to_keep=len(row.completion_ids) + 1).logits[0, :-1].float()


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
    network, group, episode = subject.model.network, args.num_generations, subject.limits.max_completion_tokens
    if not preflight.can_estimate(note, network):
        return
    dtype = getattr(torch, model_args.dtype or "", None) or network.dtype
    head: dict[str, Any] = {"temperature": args.temperature, "outputs": ("log_probs", "entropy")}

    def prepare(given: Any) -> Any:
        return memory.as_trained(given, arguments=model_args, checkpointing=args.gradient_checkpointing, **head)

    size = args.per_device_train_batch_size
    rows = [Row([1 + number // group] * longest, [1] * episode, [], 0) for number in range(size)]
    alone = [Row([1 + number] * longest, [1] * episode, [], 0) for number in range(size)]
    parts = split_rows(rows, args.max_packed_tokens or float("inf"))
    largest = [rows[number] for number in max(parts, key=len)]
    autocast = torch.bfloat16 if args.bf16 else None
    found = [memory.loss_bytes(prepare, network, dtype, given, autocast=autocast) for given in (largest, alone)]
    loss = found[0 if args.shared_prefix else 1]
    whole = prepare(memory.outline(network, dtype))
    held = memory.held_bytes(whole, model_args, args.optim, sharding)
    if args.beta and not model_args.use_peft:
        held["reference"] = held["weights"]
    rollouts = size * args.steps_per_generation
    images = rollouts * subject.limits.max_turns * longest
    held["image features"] = min(FEATURE_BYTES, memory.feature_bytes(whole, images))
    limit = limit or memory.device_gib()
    cures = ["a smaller --max_packed_tokens or --max_episode_tokens"]
    cures += ["--gradient_checkpointing true"] * (not args.gradient_checkpointing)
    engine, remark = 0, f"nothing shared, training would take {(sum(held.values()) + found[1]) / GIB:.1f}"
    if args.use_vllm:
        engine = int(args.vllm_gpu_memory_utilization * (limit or 0) * GIB) * (args.vllm_mode == "colocate")
        remark += "; without vLLM's share, which is one of the GPU's memory" * (limit is None)
        playing, cure = engine, "a lower --vllm_gpu_memory_utilization"
    else:
        together = min(args.rollout_batch_size, rollouts)
        prompts = -(-together // group) if args.shared_prefix else together
        playing = memory.rollout_bytes(
            whole, num_prompts=prompts, num_rollouts=together, prompt_tokens=longest, episode_tokens=episode
        )
        playing += memory.weight_bytes(whole, model_args) * (sharding.zero_stage == 3)
        cure = "a smaller --rollout_batch_size"
    awake = 0 if args.vllm_enable_sleep_mode else engine
    cures += ["--vllm_enable_sleep_mode true"] * bool(awake)
    phases = {"rollouts": (playing, [cure]), "training": (awake + loss, cures)}
    preflight.memory(note, held, phases, limit, model_args, remark)
