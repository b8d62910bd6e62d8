"""QLoRA as users of the smallest card run it, with bitsandbytes on CPU."""

import sys

import pytest
import torch

from fovea.models.loading import load_model
from fovea.models.names import adapter_chain
from tests.smoke.test_commands import run

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.engines


def test_qlora_with_the_settings_of_the_smallest_card_and_again_on_its_own_adapter(tmp_path):
    for start, output in (("tiny", tmp_path / "first"), (tmp_path / "first", tmp_path / "adapter")):
        run(
            sys.executable, "rl/train_grpo.py", "--config", "tiny_grpo.yaml", "hardware/1x24gb.yaml",
            "--use_cpu", "true", "--model_name_or_path", str(start), "--output_dir", str(output), "--max_steps", "1",
            "--max_pixels", "16384", "--crop_max_pixels", "5120", "--max_tasks", "8",
            "--gradient_accumulation_steps", "1",
        )  # fmt: skip
    assert adapter_chain(str(tmp_path / "adapter"))[1] == [str(tmp_path / "adapter")], (
        "it goes on with the same adapter"
    )
    run("fovea", "merge", str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "whole"))
    merged, tiny = (load_model(name).network.state_dict() for name in (str(tmp_path / "whole"), "tiny"))
    assert merged.keys() == tiny.keys()
    assert all(torch.allclose(weight, tiny[name], atol=0.05) for name, weight in merged.items())
