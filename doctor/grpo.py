"""`fovea doctor` for GRPO: beside what all trainings need, groups and batches, rewards, log-probabilities, memory."""

from __future__ import annotations

from collections.abc import Sequence

from trl import ModelConfig

from doctor.data import trained_held_out_tasks, unfit_tasks
from doctor.disk import full_disk
from doctor.environment import Subject, misread_boxes, resized_images
from doctor.episode import hidden_tools, overlong_episodes, refused_zooms
from doctor.findings import Examination, Note
from doctor.fit import Launch, exceeded_grpo_memory, lost_updates
from doctor.log_probabilities import differing_log_probabilities
from doctor.memory import Sharding, device_gib
from doctor.model import mask_of_images, read_model
from doctor.rewards import blind_rewards, failing_rewards
from doctor.settings import read_launch, read_settings
from environments.arguments import EpisodeArguments
from environments.taught import untaught
from fovea.models.loading import Model
from fovea.tasks import Task
from rewards.registry import Reward
from rl.arguments import ARGUMENTS, GRPOArguments, GRPOScriptArguments
from rl.checks import check_family, check_groups, check_prompt_rewards, check_selection, check_tasks
from rl.honoured import check_options


def examine(examination: Examination, words: Sequence[str]) -> str | None:
    """Examines what `train_grpo.py` would do with these words; where the findings are to be written."""
    check = examination.check
    parsed = check("settings", read_settings, ARGUMENTS, "tiny_grpo.yaml", words)
    if parsed is None:
        return None
    script, episodes, model_args, args, doctor = parsed
    rewards = check("rewards", blind_rewards, script.reward_funcs, args.reward_weights) or []
    if episodes.environment == "none":
        check("prompts", unusable_prompts, script, rewards)
        return doctor.json
    tasks = check("tasks", lambda note: script.load_tasks())
    if tasks is not None:
        check("tasks", unfit_tasks, tasks)
    if script.eval_dataset_name:
        check("held-out tasks", trained_held_out_tasks, script, script.eval_dataset_name, tasks or [])
    sharding = check("launch", read_launch, doctor.accelerate_config) or Sharding()
    check("options", options_without_effect, args, episodes, script, model_args)
    launch = Launch(model_args, args, sharding, doctor.gpu_memory_gib or device_gib(), script)
    check("groups", torn_groups, launch, len(tasks or []))
    check("choice of tasks", lambda note: check_selection(tasks or [], rewards, args))
    loaded = check("model", lambda note: read_model(
        note, model_args.model_name_or_path, script, load_weights=doctor.load_weights,
        trust_remote_code=args.trust_remote_code))  # fmt: skip
    if loaded is not None:
        check("mask", lambda note: mask_of_images(note, loaded[0], script.intra_image_layers, use_vllm=args.use_vllm))
        check("as taught", unlearned_settings, model_args.model_name_or_path, script, episodes)
        examine_episodes(examination, loaded, tasks or [], episodes, rewards, launch)
    return doctor.json


def examine_episodes(
    examination: Examination, loaded: tuple[Model, bool], tasks: Sequence[Task], episodes: EpisodeArguments,
    rewards: Sequence[Reward], launch: Launch,
) -> None:  # fmt: skip
    """Checks model, tasks and environment together."""
    check, args = examination.check, launch.args
    check("family", lambda note: check_family(loaded[0].processor))
    check("precision", lost_updates, loaded[0].network, launch)
    subject = check("environment", lambda note: Subject.of(loaded, tasks, episodes))
    if subject is None:
        return
    check("coordinates", misread_boxes, subject)
    check("image sizes", resized_images, subject)
    if not tasks:
        return
    check("rewards on tasks", failing_rewards, subject, rewards)
    check("prompt", hidden_tools, subject)
    check("episode", refused_zooms, subject)
    engine_length = args.vllm_max_model_length if args.use_vllm else None
    longest = check("lengths", overlong_episodes, subject, engine_length)
    if longest:
        check("memory", exceeded_grpo_memory, subject, longest, launch)
    check("disk", full_disk, subject.model.network, launch.num_steps(len(tasks) * args.num_generations), launch)
    if subject.has_weights:
        check("log-probabilities", differing_log_probabilities, subject)


def unusable_prompts(note: Note, script: GRPOScriptArguments, rewards: Sequence[Reward]) -> None:
    """Prompts that `--environment none` cannot read, and rewards that read episodes."""
    check_prompt_rewards(rewards)
    note.ok(f"{len(script.load_prompts())} prompts")


def unlearned_settings(note: Note, model: str, script: GRPOScriptArguments, episodes: EpisodeArguments) -> None:
    """Images and boxes unlike those that the checkpoint has learned from."""
    if changed := untaught(model, script, episodes):
        note.warn(changed, "give it what it has learned from, or train its cold start anew")
    else:
        note.ok(
            "crop sizes, pixel limits and the frame of boxes are those that the checkpoint has learned from, if any"
        )


def options_without_effect(
    note: Note, args: GRPOArguments, episodes: EpisodeArguments, script: GRPOScriptArguments, model_args: ModelConfig
) -> None:
    """Options that are set and would have no effect."""
    check_options(args, max_episode_tokens=episodes.max_episode_tokens)
    script.refuse_beside_adapter(use_peft=model_args.use_peft)
    note.ok("every option that is set takes effect")


def torn_groups(note: Note, launch: Launch, num_tasks: int) -> None:
    """Groups that processes or micro-batches would split, and tasks too few for a step."""
    args, num_processes = launch.args, launch.sharding.num_processes
    check_groups(args)
    if num_tasks:
        check_tasks(num_tasks, args, num_processes)
    prompts = args.num_rollouts * num_processes // args.group_size
    rollouts = num_tasks * args.num_generations
    note.ok(
        f"{prompts} prompts x {args.num_generations} rollouts a generation; {launch.steps_an_epoch(rollouts)} steps an "
        f"epoch, {launch.num_steps(rollouts)} steps in all"
    )
