"""GRPO on zoom episodes: `accelerate launch rl/train_grpo.py [--config FILE] [any option]`.

Without arguments it trains the embedded tiny model (configs/tiny_grpo.yaml); if its SFT cold start has not been made
yet, that is done first. Every option of TRL's GRPOConfig and ModelConfig works here under its own name.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml
from accelerate import PartialState
from trl import ModelConfig, get_peft_config

from environments.settings import EpisodeArguments
from fovea.checkpoints import is_finished
from fovea.config import find_config, parse
from fovea.runs import RunDirectory
from fovea.training import load_for_training, start_run, train
from rewards.registry import load_reward
from rl.arguments import GRPOArguments, ScriptArguments
from rl.callbacks import CollapseCallback
from rl.trainer import ZoomGRPOTrainer


def make_cold_start(config: str, model_name: str) -> None:
    """Runs the SFT `config` if `model_name` is the folder it writes and is not finished; other processes wait."""
    target = yaml.safe_load(find_config(config).read_text())["output_dir"]
    with PartialState().main_process_first():
        if model_name == target and not is_finished(target):
            print(f"{target} is not there yet: making the SFT cold start first ({config})", flush=True)
            script = Path(__file__).resolve().parent.parent / "sft" / "train_sft.py"
            subprocess.run([sys.executable, str(script), "--config", config], check=True)


def main() -> None:
    script, episodes, model_args, args = parse(
        (ScriptArguments, EpisodeArguments, ModelConfig, GRPOArguments), default_config="tiny_grpo.yaml"
    )
    rewards = [load_reward(name) for name in script.reward_funcs]
    tasks = script.load_tasks()
    held_out = script.read_tasks(script.eval_dataset_name) if script.eval_dataset_name else []
    if script.cold_start_config:
        make_cold_start(script.cold_start_config, model_args.model_name_or_path)
    model = load_for_training(
        model_args,
        min_pixels=script.min_pixels,
        max_pixels=script.max_pixels,
        trust_remote_code=args.trust_remote_code,
    )
    run = RunDirectory(args.output_dir)
    checkpoint = start_run(
        run, args.resume_from_checkpoint, script=script, episodes=episodes, model=model_args, training=args
    )
    trainer = ZoomGRPOTrainer(
        model.network,
        rewards,
        args,
        train_tasks=tasks,
        eval_tasks=held_out,
        environment_factory=episodes.environment_factory(model),
        limits=episodes.limits(),
        renderer=episodes.renderer(model),
        run=run,
        processing_class=model.processor,
        peft_config=get_peft_config(model_args),
        callbacks=[CollapseCallback()],
    )
    train(trainer, run, checkpoint=checkpoint, max_minutes=script.max_minutes)


if __name__ == "__main__":
    main()
