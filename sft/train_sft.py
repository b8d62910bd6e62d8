"""Cold start on traces: `accelerate launch sft/train_sft.py [--config FILE] [any option]`.

Loss on assistant tokens only; the epoch with the best held-out loss is kept. Without arguments it trains the embedded
tiny model on fresh traces (configs/tiny_sft.yaml). Every option of TRL's SFTConfig and ModelConfig works here.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from datasets import Dataset

from environments.factories import environment_factory, make_renderer
from fovea.arguments import said_in_a_line
from fovea.config import ConfigError, parse
from fovea.data.identity import records_named
from fovea.models.names import expect_another_folder, weights_mark
from fovea.models.processors import pixel_limits
from fovea.models.trainee import load_for_training, model_named
from fovea.processes import expect_cpu, process_state, told_to_launcher
from fovea.runs.directory import RunDirectory
from fovea.runs.starting import WEIGHTS, start_run
from fovea.training import train
from sft.arguments import ARGUMENTS, check_options
from sft.collator import TraceCollator
from sft.trainer import ColdStartTrainer


def load_traces(records: list[dict], eval_fraction: float, seed: int) -> tuple[Dataset, Dataset | None]:
    """Training and held-out records, None of these with a fraction of 0; the split depends on the seed alone.

    Raises:
        ConfigError: if there are too few to hold some out.
    """
    if eval_fraction == 0:
        return Dataset.from_list(records), None
    if len(records) < 2:
        raise ConfigError(f"{len(records)} traces are too few to train on and to hold some out: give two at least")
    split = Dataset.from_list(records).train_test_split(test_size=eval_fraction, seed=seed)
    return split["train"], split["test"]


def main() -> None:
    expect_cpu()
    script, episodes, model_args, args = parse(ARGUMENTS, default_config="tiny_sft.yaml", description=__doc__)
    check_options(args, script, model_args)
    with said_in_a_line(), process_state().main_process_first():
        expect_another_folder(args.output_dir, model_named(model_args), revision=model_args.model_revision)
        records = script.read_traces()
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
    environment = environment_factory(episodes, model)()
    renderer = make_renderer(episodes, model)
    collator = TraceCollator(renderer, environment, pixel_limits(model.processor), max_length=args.max_length)
    is_evaluated = args.eval_strategy != "no"  # what is not evaluated on is trained on
    seed = args.seed if args.data_seed is None else args.data_seed
    traces, held_out = load_traces(records, script.eval_fraction if is_evaluated else 0.0, seed)
    args.remove_unused_columns = False
    args.dataset_kwargs = {"skip_prepare_dataset": True}
    args.max_length = None
    run = RunDirectory(args.output_dir)
    data = {
        "traces": records_named("traces", records),
        "held_out": 0 if held_out is None else len(held_out),
        WEIGHTS: weights_mark(model_named(model_args)),
    }
    start = start_run(
        run, args.resume_from_checkpoint, script=script, episodes=episodes, model=model_args, training=args, data=data
    )
    trainer = ColdStartTrainer(
        model.network,
        args,
        renderer=renderer if script.shared_prefix else None,
        train_dataset=traces,
        eval_dataset=held_out,
        data_collator=collator,
        processing_class=model.processor,
        peft_config=trainee.new_adapter,
    )
    start.begin()
    train(trainee.named(trainer), run, checkpoint=start.checkpoint, max_minutes=script.max_minutes)


if __name__ == "__main__":
    with told_to_launcher():
        main()
