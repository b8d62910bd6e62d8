"""The adapter of a training: an existing one or a new one, and its folder."""

import pytest
from peft import LoraConfig, get_peft_model
from torch.nn import Dropout, Identity
from trl import ModelConfig

from fovea.models.loading import LANGUAGE_LINEARS, load_model
from fovea.models.trainee import load_for_training


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter")
    config = LoraConfig(r=4, lora_alpha=8, lora_dropout=0.05, target_modules=LANGUAGE_LINEARS, task_type="CAUSAL_LM")
    get_peft_model(load_model("tiny").network, config).save_pretrained(folder)
    return str(folder)


def trainee(name, **options):
    settings = ModelConfig(name, use_peft=True, **{"lora_r": 4, "lora_alpha": 8, "dtype": "float32", **options})
    return load_for_training(settings, min_pixels=None, max_pixels=None)


@pytest.mark.parametrize(("rate", "kind"), [(0.0, Identity), (0.2, Dropout)])
def test_dropout_is_that_which_is_asked_for_now(adapter, rate, kind):
    network = trainee(adapter, lora_dropout=rate).model.network
    layers = [layer.lora_dropout["default"] for layer in network.modules() if hasattr(layer, "lora_dropout")]
    assert layers and all(type(layer) is kind and getattr(layer, "p", 0.0) == rate for layer in layers)
    assert network.peft_config["default"].lora_dropout == rate


@pytest.mark.parametrize(
    ("options", "goes_on"),
    [({}, True), ({"lora_r": 8}, False), ({"lora_target_parameters": ["mlp.gate_proj.weight"]}, False)],
    ids=str,
)
def test_an_adapter_of_another_shape_is_merged_below_a_new_one(adapter, options, goes_on):
    assert (trainee(adapter, **options).new_adapter is None) == goes_on


def test_an_adapter_goes_to_the_language_tower_unless_it_is_said_where():
    assert trainee("tiny").new_adapter.target_modules == LANGUAGE_LINEARS
    named = trainee("tiny", lora_target_parameters=["mlp.gate_proj.weight"]).new_adapter
    assert named.target_modules is None and named.target_parameters == ["mlp.gate_proj.weight"]
