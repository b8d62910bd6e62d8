"""GRPO on zoom episodes: `accelerate launch rl/train_grpo.py [--config FILE] [any option]`.

Without --config it trains the embedded tiny model by configs/tiny_grpo.yaml; if its SFT cold start has not been made
yet, that is done first. Every option of TRL's GRPOConfig and ModelConfig works here under its own name. With
`--environment none` it is TRL's own GRPO on prompts; give a config of your own then, or the tiny model's numbers apply.
"""

from __future__ import annotations

import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from accelerate.logging import get_logger
from trl import GRPOConfig, ModelConfig, get_peft_config, get_quantization_config

from environments.arguments import EpisodeArguments
from environments.factories import environment_factory, make_renderer
from environments.probes.other_images import with_others
from environments.seats import try_openings
from environments.taught import untaught
from fovea.arguments import said_in_a_line
from fovea.config import ConfigError, asked_fields, parse, read_config
from fovea.data.identity import data_named, fingerprint
from fovea.models.masks import check_engine
from fovea.models.names import adapter_chain, expect_another_folder, resolve_path, weights_mark
from fovea.models.trainee import load_for_training, model_named
from fovea.processes import expect_cpu, process_state, told_to_launcher
from fovea.runs.checkpoints import is_finished
from fovea.runs.directory import RunDirectory
from fovea.runs.starting import WEIGHTS, start_run
from fovea.tasks import Task
from fovea.training import train
from rewards.registry import Reward, RewardError, load_rewards
from rewards.trl_adapter import check_columns
from rl.arguments import ARGUMENTS, GRPOArguments, GRPOScriptArguments
from rl.checks import check_groups, check_installed, check_prompt_rewards, check_selection, check_tasks, check_weights
from rl.collapse import CollapseCallback
from rl.honoured import check_options, check_values
from rl.probes import ProbeCallback
from rl.trackers import SENDERS, TrajectoryCallback
from rl.trainer import ZoomGRPOTrainer

logger = get_logger(__name__)


def make_cold_start(config: str, model_name: str) -> None:
    """Runs the SFT `config` if `model_name` is the folder it writes and is not finished.

    Raises:
        ConfigError: for several processes: each of them would be one of the SFT's too.
    """
    target = read_config(config)["output_dir"]
    if model_name != target or is_finished(target):
        return
    if process_state().num_processes > 1:
        raise ConfigError(
            f"the SFT checkpoint {target} is not there yet, and is made on the way in one process alone: launch "
            f"sft/train_sft.py --config {config} in the same way first"
        )
    print(f"{target} is not there yet: making the SFT cold start first ({config})", flush=True)
    script = Path(__file__).resolve().parent.parent / "sft" / "train_sft.py"
    subprocess.run([sys.executable, str(script), "--config", config], check=True)


PROMPT_OPTIONS = {"environment", "dataset_name", "dataset_split", "dataset_config", "max_tasks", "reward_funcs",
                  "max_minutes"}  # fmt: skip
"""Options of `GRPOScriptArguments` and `EpisodeArguments` that act where there are prompts in place of tasks."""


def for_prompts(
    script: GRPOScriptArguments, episodes: EpisodeArguments, model_args: ModelConfig, args: GRPOArguments,
    rewards: list[Reward],
) -> Callable[[], ZoomGRPOTrainer]:  # fmt: skip
    """Makes the trainer of `--environment none`: TRL's own training on prompts, without tasks, images or tools.

    Raises:
        ConfigError: for an adapter: TRL takes whole models by name, and would lose what the adapter has learned.
    """
    check_prompt_rewards(rewards)
    ours = {field.name for field in fields(GRPOArguments)} - {field.name for field in fields(GRPOConfig)}
    dead = ours & asked_fields(args).keys()
    dead |= (asked_fields(script).keys() | asked_fields(episodes).keys()) - PROMPT_OPTIONS
    if dead:
        names = ", ".join(sorted(dead))
        raise ConfigError(f"--environment none plays no episodes, which {names} would act on: leave it out")
    name = model_named(model_args)
    expect_another_folder(args.output_dir, name, revision=model_args.model_revision)
    if adapter_chain(name, revision=model_args.model_revision)[1]:
        raise ConfigError(
            f"{name} is an adapter, and --environment none takes whole models: merge it first "
            "(fovea merge, or merge_and_unload of PEFT)"
        )
    if args.use_vllm:
        check_engine(resolve_path(name), "vLLM")
    args.model_init_kwargs = {
        "dtype": model_args.dtype,
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        **cast("dict[str, Any]", args.model_init_kwargs or {}),  # TRL has parsed a text by now
    }
    return partial(
        ZoomGRPOTrainer,
        resolve_path(name),
        rewards,
        args,
        train_dataset=script.load_prompts(),
        peft_config=get_peft_config(model_args),
        quantization_config=get_quantization_config(model_args),  # not by model_init_kwargs: reward models take those
    )


def read_tasks(
    script: GRPOScriptArguments, episodes: EpisodeArguments, args: GRPOArguments
) -> tuple[list[Task], list[Task]]:
    """The tasks that are trained on, and those held out."""
    if bool(script.eval_dataset_name) != (args.eval_strategy != "no"):
        raise ConfigError(
            "held-out tasks and their evaluation go together: give --eval_dataset_name and --eval_strategy steps (or "
            "epoch), or neither"
        )
    held_out = script.read_tasks(script.eval_dataset_name) if script.eval_dataset_name else []
    if args.probes and (not held_out or args.eval_strategy == "no"):
        raise ConfigError("--probes are played at evaluation: give --eval_dataset_name and --eval_strategy steps")
    tasks = script.load_tasks()
    return (with_others(tasks), with_others(held_out)) if episodes.crops == "other" else (tasks, held_out)


def start_from(
    name: str, script: GRPOScriptArguments, episodes: EpisodeArguments, output_dir: str | None, *, revision: str | None
) -> None:
    """Sees to it that the model is there, apart from the output, and says what it has not learned from."""
    if script.cold_start_config:
        make_cold_start(script.cold_start_config, name)
    with said_in_a_line():
        expect_another_folder(output_dir, name, revision=revision)
    if changed := untaught(name, script, episodes):
        logger.warning(f"{changed}: it will see other images than it has learned from")


def for_episodes(
    script: GRPOScriptArguments, episodes: EpisodeArguments, model_args: ModelConfig, args: GRPOArguments,
    rewards: list[Reward], tasks: list[Task], held_out: list[Task], run: RunDirectory,
) -> Callable[[], ZoomGRPOTrainer]:  # fmt: skip
    """Makes the trainer that plays episodes in an environment, once the model is loaded."""
    start_from(model_named(model_args), script, episodes, args.output_dir, revision=model_args.model_revision)
    trainee = load_for_training(
        model_args,
        min_pixels=script.min_pixels,
        max_pixels=script.max_pixels,
        train_vision=script.train_vision,
        train_projector=script.train_projector,
        intra_image_layers=script.intra_image_layers,
        trust_remote_code=args.trust_remote_code,
    )
    model = trainee.model
    if args.use_vllm:
        check_engine(model.network, "vLLM")
    factory, renderer = environment_factory(episodes, model), make_renderer(episodes, model)
    with said_in_a_line():  # what cannot be shown is told now, not in the step that shows it
        try_openings(factory, [*tasks, *held_out])
    probes = {name: environment_factory(replace(episodes, crops=name), model) for name in args.probes or ()}

    def make_trainer() -> ZoomGRPOTrainer:
        trainer = ZoomGRPOTrainer(
            model.network,
            rewards,
            args,
            train_tasks=tasks,
            eval_tasks=held_out,
            environment_factory=factory,
            limits=episodes.limits(),
            renderer=renderer,
            run=run,
            processing_class=model.processor,
            peft_config=trainee.new_adapter,
            load_reference=lambda: trainee.load_again().network,
            callbacks=[CollapseCallback(args.collapse_action, can_zoom=episodes.cuts_crops)],
        )
        if probes:
            trainer.add_callback(ProbeCallback(trainer, probes))
        return trainee.named(trainer)

    return make_trainer


def main() -> None:
    expect_cpu()
    script, episodes, model_args, args = parse(ARGUMENTS, default_config="tiny_grpo.yaml", description=__doc__)
    check_weights(script.reward_funcs, args.reward_weights)
    with said_in_a_line():
        check_installed(args)
        check_values(args)
        rewards = load_rewards(script.reward_funcs)
    run = RunDirectory(args.output_dir)
    data: dict[str, str] = {}
    if episodes.environment == "none":
        with said_in_a_line():
            make_trainer = for_prompts(script, episodes, model_args, args, rewards)
        data[WEIGHTS] = weights_mark(model_named(model_args))
    else:
        with said_in_a_line():
            check_options(args, max_episode_tokens=episodes.max_episode_tokens)
            check_groups(args)
            script.refuse_beside_adapter(use_peft=model_args.use_peft)
            tasks, held_out = read_tasks(script, episodes, args)
            check_tasks(len(tasks), args, process_state().num_processes)
            check_selection(tasks, rewards, args)
            check_columns(rewards, tasks)
        data["tasks"] = data_named("tasks", list(map(fingerprint, tasks)))
        make_trainer = for_episodes(script, episodes, model_args, args, rewards, tasks, held_out, run)
        data[WEIGHTS] = weights_mark(model_named(model_args))  # once the model is there
    start = start_run(
        run, args.resume_from_checkpoint, script=script, episodes=episodes, model=model_args, training=args, data=data
    )
    with said_in_a_line():
        trainer = make_trainer()
    start.begin()
    if args.log_trajectories and {*args.report_to} & {*SENDERS}:
        trainer.add_callback(
            TrajectoryCallback(trainer, number=args.log_trajectories, every=args.log_trajectories_steps)
        )
    try:
        train(trainer, run, checkpoint=start.checkpoint, max_minutes=script.max_minutes)
    except RewardError as error:
        if error.__cause__ is not None:  # the reward's own lines, without those of the trainers above it
            traceback.print_exception(error.__cause__)
        sys.exit(str(error))  # by which a tracker knows of the failure


if __name__ == "__main__":
    with told_to_launcher():
        main()
