"""Every shipped recipe is one that its command takes, word for word."""

from pathlib import Path

import pytest
import yaml

from environments.arguments import EpisodeArguments
from evaluation.arguments import EvaluationArguments
from fovea.config import parse
from rl.arguments import ARGUMENTS as GRPO
from sft.arguments import ARGUMENTS as SFT

CONFIGS = Path(__file__).parent.parent / "configs"
KINDS = {"sft": SFT, "grpo": GRPO, "eval": (EvaluationArguments, EpisodeArguments)}
RECIPES = [
    path.relative_to(CONFIGS)
    for path in sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("papers/**/*.yaml")])
    if path.stem.rpartition("_")[2] in KINDS
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_its_command_takes_it(recipe, monkeypatch, tmp_path):
    kind = recipe.stem.rpartition("_")[2]
    output = ["--output_dir", str(tmp_path)] if kind == "eval" else []
    on_cpu = [] if kind == "eval" else ["--bf16", "false"]  # which a machine without a GPU refuses
    monkeypatch.setattr("sys.argv", ["train", "--config", str(recipe), *output, *on_cpu])
    parts = parse(KINDS[kind])
    chosen = {name: getattr(value, "value", value) for part in parts for name, value in vars(part).items()}
    written = yaml.safe_load((CONFIGS / recipe).read_text())
    for name in written.keys() - {"output_dir", "bf16", "report_to"}:
        assert chosen[name] == written[name], name
    if "mimic" in recipe.parts and "_masked" in recipe.stem:
        assert parts[0].intra_image_layers
