"""Methods of TRL and Transformers that Fovea overrides are unchanged since the override was written.

A change of the original fails here, whatever else passes: read what changed, adapt the override, record the new digest.
"""

import ast
import hashlib
import inspect
import textwrap

import pytest
import torch
from transformers import Trainer
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl
from transformers.models.qwen3_vl import modeling_qwen3_vl
from trl.trainer.utils import RepeatSampler, add_fused_lm_head

from rl.engine import Engine
from rl.sampling import EpochSampler
from rl.trainer import ZoomGRPOTrainer
from sft.trainer import ColdStartTrainer

OURS, FOREIGN = ("rl.", "sft.", "fovea."), ("trl.", "transformers.")
OTHERS = [
    Trainer.evaluate,
    Trainer._load_best_model,
    RepeatSampler.__init__,
    RepeatSampler.__iter__,
    add_fused_lm_head,
    modeling_qwen2_5_vl.Qwen2_5_VLVisionAttention.forward,
    modeling_qwen2_5_vl.Qwen2_5_VLModel.get_image_features,
    modeling_qwen3_vl.Qwen3VLVisionAttention.forward,
    modeling_qwen3_vl.Qwen3VLModel.get_image_features,
]
"""Methods whose inner workings ours use, or that are replaced on the object (vision_attention.py, image_features.py).

`ProbeCallback` adds to the metrics that `Trainer.evaluate` returns, which its callbacks are given.
`fovea.training.train` loads the best weights of a training that was killed before the Trainer did.
"""
RECORDED = {
    "GRPOTrainer.__init__": "aebed526efb44bc0",
    "GRPOTrainer._calculate_rewards": "9a73733d02c865a0",
    "GRPOTrainer._compute_loss": "6b861df63f5aaa7a",
    "GRPOTrainer._generate": "c43183674d09daf2",
    "GRPOTrainer._generate_and_score_completions": "739def7da67c5a5b",
    "GRPOTrainer._get_per_token_logps_and_entropies": "2f6e32c617df27e8",
    "GRPOTrainer._get_train_sampler": "1b25d1c0176a460e",
    "GRPOTrainer._load_optimizer_and_scheduler": "f0236c69fcf3477c",
    "GRPOTrainer._prepare_inputs": "6de74aaff4c9f444",
    "GRPOTrainer._save_checkpoint": "96c508fc0fca70f7",
    "Trainer._issue_warnings_after_load": "c4d43ecbf3245708",
    "Trainer._load_best_model": "3810044fbf479538",
    "Trainer._prepare_input": "93d1b361908405be",
    "Trainer._push_from_checkpoint": "fc40ece078cb892e",
    "Trainer._save": "f7a85de8fe2a3d9f",
    "Trainer.push_to_hub": "725529267e92cc52",
    "_BaseTrainer.create_model_card": "2845ed823c4df45c",
    "Qwen2_5_VLModel.get_image_features": "f959000ee7befb13",
    "Qwen2_5_VLVisionAttention.forward": "044bc72569fc3d46",
    "Qwen3VLModel.get_image_features": "8f5ff17594e0430e",
    "Qwen3VLVisionAttention.forward": "044bc72569fc3d46",
    "RepeatSampler.__init__": "651e315e504b9ebb",
    "RepeatSampler.__iter__": "24eef237dca84e90",
    "SFTTrainer.__init__": "28459145d7ed4dc5",
    "SFTTrainer._save_checkpoint": "9e443b9bdf401980",
    "SFTTrainer.compute_loss": "0344a47174658920",
    "Trainer.evaluate": "3f3b306bcfa5b51a",
    "VLLMGeneration.__init__": "425d7d149bb74e22",
    "VLLMGeneration._init_vllm": "90ee5e82844d152d",
    "VLLMGeneration.sync_weights": "9c4671d678ef37bb",
    "add_fused_lm_head": "27301e73e4ace4f2",
}


def overridden():
    """The nearest foreign definition of every method that our classes define, `__init__` included."""
    for ours in (EpochSampler, ZoomGRPOTrainer, ColdStartTrainer, Engine):
        line = ours.__mro__
        foreign = [base for base in line if base.__module__.startswith(FOREIGN)]
        names = {name for base in line if base.__module__.startswith(OURS) for name in vars(base)}
        for name in sorted(names):
            found = next((vars(base)[name] for base in foreign if name in vars(base)), None)
            if inspect.isfunction(found):
                yield found
    yield from OTHERS


def digest(function) -> str:
    """Of the code alone: comments, docstrings, decorators and layout may change."""
    definition = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    definition.decorator_list = []
    if ast.get_docstring(definition) is not None:
        definition.body = definition.body[1:]
    return hashlib.sha256(ast.unparse(definition).encode()).hexdigest()[:16]


FUNCTIONS = {function.__qualname__: function for function in overridden()}


def test_every_override_is_recorded():
    assert set(FUNCTIONS) == set(RECORDED)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_what_is_overridden_has_not_changed(name):
    found = digest(FUNCTIONS[name])
    assert found == RECORDED.get(name), (
        f"{FUNCTIONS[name].__module__}: {name} is not the one that Fovea's override was written for: compare the two, "
        f"adapt the override, then record {found!r}"
    )


CPU_FLASH = "_scaled_dot_product_flash_attention_for_cpu"
CALLED = {
    "_flash_attention_forward": "query key value cum_seq_q cum_seq_k max_q max_k dropout_p is_causal return_debug_mask",
    "_flash_attention_backward": """grad_out query key value out logsumexp cum_seq_q cum_seq_k max_q max_k dropout_p
        is_causal rng_state unused""",
    "_efficient_attention_forward": """query key value bias cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k
        dropout_p custom_mask_type compute_log_sumexp""",
    "_efficient_attention_backward": """grad_out_ query key value bias out cu_seqlens_q cu_seqlens_k max_seqlen_q
        max_seqlen_k logsumexp dropout_p philox_seed philox_offset custom_mask_type bias_requires_grad""",
    CPU_FLASH: "query key value dropout_p is_causal",
    f"{CPU_FLASH}_backward": "grad_out query key value out logsumexp dropout_p is_causal",
}
"""PyTorch's own operations that `fovea/kernels/varlen_attention.py` calls, and what it gives them by place."""


@pytest.mark.parametrize("name", CALLED)
def test_pytorchs_attention_takes_what_we_give_it(name):
    """On CUDA they are called where no test runs: a changed order would be wrong in silence."""
    arguments = [argument.name for argument in getattr(torch.ops.aten, name).default._schema.arguments]
    given = CALLED[name].split()
    assert arguments[: len(given)] == given and "scale" in arguments[len(given) :]
