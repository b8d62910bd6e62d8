"""Cold start on traces: `accelerate launch sft/train_sft.py [--config FILE] [any option]`.

Loss on assistant tokens only; the epoch with the best held-out loss is kept. Without arguments it trains the embedded
tiny model on fresh traces (configs/tiny_sft.yaml). Every option of TRL's SFTConfig and ModelConfig works here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from accelerate import PartialState
from datasets import Dataset
from trl import ModelConfig, SFTConfig, get_peft_config

from environments.settings import EpisodeArguments
from environments.traces import read_traces
from fovea.config import parse
from fovea.models import pixel_limits
from fovea.plugins import load_object
from fovea.runs import RunDirectory
from fovea.training import load_for_training, start_run, train
from sft.collator import TraceCollator
from sft.trainer import ColdStartTrainer


@dataclass
class ScriptArguments:
    """Which traces to learn from."""

    dataset_name: str = field(
        default="synthesis.trace_shapes:write_default_traces",
        metadata={"help": "traces.jsonl, the folder that holds it, or a function package.module:name that returns one"},
    )
    eval_fraction: float = field(default=0.1, metadata={"help": "Share of traces held out for the loss curve."})
    max_traces: int | None = field(default=None, metadata={"help": "Use only so many traces."})
    train_vision: bool = field(default=False, metadata={"help": "Also train the vision tower."})
    shared_prefix: bool = field(
        default=True,
        metadata={"help": "Forward a batch as one row without padding, the text that its traces share once."},
    )
    max_minutes: float | None = field(default=None, metadata={"help": "End training after so many minutes."})
    min_pixels: int | None = field(default=None, metadata={"help": "Fewest pixels of an image."})
    max_pixels: int | None = field(default=None, metadata={"help": "Most pixels of an image."})


def load_traces(script: ScriptArguments, seed: int) -> tuple[Dataset, Dataset]:
    """Training and held-out records; the split depends on the seed alone."""
    name = script.dataset_name
    path = load_object(name)() if ":" in name and not Path(name).exists() else name
    records = list(read_traces(path))[: script.max_traces]
    split = Dataset.from_list(records).train_test_split(test_size=script.eval_fraction, seed=seed)
    return split["train"], split["test"]


def main() -> None:
    script, episodes, model_args, args = parse(
        (ScriptArguments, EpisodeArguments, ModelConfig, SFTConfig), default_config="tiny_sft.yaml"
    )
    model = load_for_training(
        model_args,
        min_pixels=script.min_pixels,
        max_pixels=script.max_pixels,
        train_vision=script.train_vision,
        trust_remote_code=args.trust_remote_code,
    )
    environment = episodes.environment_factory(model)()
    renderer = episodes.renderer(model)
    collator = TraceCollator(renderer, environment, pixel_limits(model.processor), max_length=args.max_length)
    with PartialState().main_process_first():
        traces, held_out = load_traces(script, args.data_seed or args.seed)
    args.remove_unused_columns = False
    args.dataset_kwargs = {"skip_prepare_dataset": True}
    args.max_length = None
    run = RunDirectory(args.output_dir)
    checkpoint = start_run(
        run, args.resume_from_checkpoint, script=script, episodes=episodes, model=model_args, training=args
    )
    trainer = ColdStartTrainer(
        model.network,
        args,
        renderer=renderer if script.shared_prefix else None,
        train_dataset=traces,
        eval_dataset=held_out,
        data_collator=collator,
        processing_class=model.processor,
        peft_config=get_peft_config(model_args),
    )
    train(trainer, run, checkpoint=checkpoint, max_minutes=script.max_minutes)


if __name__ == "__main__":
    main()
