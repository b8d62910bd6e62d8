"""Arguments of `train_sft.py` beside those of TRL and of episodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from trl import ModelConfig, SFTConfig

from environments.arguments import EpisodeArguments
from environments.trace_files import read_traces
from fovea.arguments import MaskArguments, PixelArguments, SharingArguments, TimeArguments, VisionArguments
from fovea.config import ConfigError, asked_fields
from fovea.plugins import load_object


@dataclass(kw_only=True)
class SFTScriptArguments(PixelArguments, TimeArguments, SharingArguments, VisionArguments, MaskArguments):
    """The source of traces, and the weights that SFT trains."""

    dataset_name: str = field(
        default="synthesis.oracle_traces:write_default_traces",
        metadata={"help": "traces.jsonl, the folder that holds it, or a function package.module:name that returns one"},
    )
    eval_fraction: float = field(
        default=0.1, metadata={"help": "Share of traces held out for the loss curve, if there is an eval_strategy."}
    )
    max_traces: int | None = field(default=None, metadata={"help": "Use only so many traces."})

    def read_traces(self) -> list[dict]:
        """The records of the traces that these arguments name."""
        name = self.dataset_name
        path = load_object(name)() if ":" in name and not Path(name).exists() else name
        return list(read_traces(path))[: self.max_traces]


ARGUMENTS = (SFTScriptArguments, EpisodeArguments, ModelConfig, SFTConfig)
"""All that `train_sft.py` takes."""

REFUSED = {
    "chat_template_path": "the template is that of rollouts: leave it out",
    "dataset_kwargs": "traces are rendered by environments.rendering: leave it out",
    "dataset_num_proc": "traces are rendered batch by batch (--dataloader_num_workers): leave it out",
    "dataset_text_field": "traces are messages with images: leave it out",
    "eos_token": "turns end as in rollouts: leave it out",
    "pad_token": "padding is masked: leave it out",
    "truncation_mode": "no trace is truncated: leave it out, and bound traces by --max_length",
    "shuffle_dataset": "the sampler shuffles traces in every epoch: leave it out",
    "packing": "a batch is forwarded as one row already: leave it out",
    "packing_strategy": "a batch is forwarded as one row already: leave it out",
    "padding_free": "a batch is forwarded as one row already: leave it out",
    "eval_packing": "a batch is forwarded as one row already: leave it out",
    "completion_only_loss": "loss is on what the assistant wrote, in all of its turns: leave it out",
    "model_init_kwargs": "use --dtype, --attn_implementation, --model_revision and --load_in_4bit",
}
"""Fields of SFTConfig that stop a cold start when they are set, and what to do instead."""
REFUSED_WITH_SHARED_PREFIX = {
    "neftune_noise_alpha": "its noise would be shared by what a row shares: add --shared_prefix false",
}
HONOURED = frozenset({"activation_offloading", "assistant_only_loss", "loss_type", "max_length", "pad_to_multiple_of",
                      "router_aux_loss_coef", "trust_remote_code"})  # fmt: skip
"""Fields of SFTConfig, beyond the Trainer's own, that act as in TRL. A longer trace than max_length is refused by name;
padding changes no result, with or without it."""


def check_options(args: SFTConfig, script: SFTScriptArguments, model_args: ModelConfig) -> None:
    """Raises ConfigError for an option that would have no effect on traces, with what to use instead."""
    if not 0 <= script.eval_fraction < 1 or (script.eval_fraction == 0 and args.eval_strategy != "no"):
        raise ConfigError(
            f"eval_fraction {script.eval_fraction}: give a share between 0 and 1, or --eval_strategy no, which trains "
            "on all traces"
        )
    script.refuse_beside_adapter(use_peft=model_args.use_peft)
    args.assistant_only_loss = False  # what it asks for is done anyway, and TRL would look for templates it knows
    changed = asked_fields(args)
    for name, cure in (REFUSED | (REFUSED_WITH_SHARED_PREFIX if script.shared_prefix else {})).items():
        if name in changed:
            raise ConfigError(f"{name} {changed[name]!r} has no effect on traces: {cure}")
