import copy
import json
import os
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from environments.rendering import Renderer
from fovea.boxes import Frame
from fovea.config import ConfigError
from fovea.kernels.image_features import remember_image_features, share_image_features
from fovea.kernels.vision_attention import batch_vision_attention
from fovea.models import merge
from fovea.models.loading import freeze_vision, load_model
from fovea.models.names import adapter_chain, resolve_path, weights_mark
from fovea.models.random_models import random_model
from tests.families import llava_onevision, qwen2_vl


def test_tiny_is_a_small_qwen3_vl_with_deepstack_that_loads_without_us(tiny):
    from transformers import AutoModelForImageTextToText

    plain = AutoModelForImageTextToText.from_pretrained(resolve_path("tiny"))
    assert plain.config.model_type == "qwen3_vl"
    assert plain.num_parameters() <= 3_000_000
    assert plain.config.vision_config.deepstack_visual_indexes
    assert tiny.frame is Frame.PER_MILLE


def test_batched_vision_attention_changes_nothing(tiny, picture):
    from transformers import AutoModelForImageTextToText

    plain = AutoModelForImageTextToText.from_pretrained(resolve_path("tiny")).eval()
    renderer = Renderer(tiny.processor)
    inputs = [renderer.image_inputs(image) for image in (picture, picture.crop((0, 0, 300, 480)), picture)]
    pixels = torch.cat([image.pixel_values for image in inputs])
    grid = torch.stack([image.extent for image in inputs])
    with torch.no_grad():
        expected = plain.model.visual(pixels, grid_thw=grid)
        found = batch_vision_attention(tiny.network).model.visual(pixels, grid_thw=grid)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.deepstack_features[0], expected.deepstack_features[0], atol=1e-5, rtol=1e-4)


def test_a_run_folder_without_weights_names_its_last_checkpoint(tmp_path):
    (tmp_path / "checkpoint-9").mkdir()
    (tmp_path / "checkpoint-10").mkdir()
    with pytest.raises(FileNotFoundError, match="checkpoint-10"):
        resolve_path(str(tmp_path))


def test_a_saved_adapter_loads_merged_on_its_base(tiny, tmp_path):
    from peft import LoraConfig, get_peft_model

    from fovea.models.loading import LANGUAGE_LINEARS

    tiny.network.name_or_path = "tiny"
    adapted = get_peft_model(tiny.network, LoraConfig(r=2, target_modules=LANGUAGE_LINEARS, init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = "tiny"
    adapted.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path)).network
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    base = load_model("tiny").network
    assert not torch.equal(loaded.get_parameter(name), base.get_parameter(name))
    assert torch.equal(loaded.model.visual.blocks[0].attn.qkv.weight, base.model.visual.blocks[0].attn.qkv.weight)


def test_a_merged_model_has_the_card_and_the_settings_of_its_adapter_and_so_has_its_copy_on_the_hub(
    tmp_path, monkeypatch
):
    from peft import LoraConfig, get_peft_model

    from fovea.models.loading import LANGUAGE_LINEARS

    adapter, whole = tmp_path / "adapter", tmp_path / "whole"
    adapted = get_peft_model(load_model("tiny").network, LoraConfig(r=2, target_modules=LANGUAGE_LINEARS))
    adapted.peft_config["default"].base_model_name_or_path = "tiny"
    adapted.save_pretrained(adapter)
    (adapter / "run.json").write_text('{"settings": {}}')
    start = "## Quick start\n\nfovea eval adapter\n\n## Training procedure\n\nGRPO\n"
    head = "---\nbase_model: tiny\nlibrary_name: peft\ntags:\n- lora\n- base_model:adapter:tiny\n- grpo\n---\n\n"
    (adapter / "README.md").write_text(head + start)
    uploaded = {}
    monkeypatch.setattr(merge, "create_repo", lambda name, exist_ok: SimpleNamespace(repo_id=name))

    def upload_folder(*, repo_id, folder_path, ignore_patterns):
        uploaded[repo_id] = os.listdir(folder_path)

    monkeypatch.setattr(merge, "upload_folder", upload_folder)
    monkeypatch.setattr(sys, "argv", ["fovea merge", str(adapter), "--output_dir", str(whole), "--push_to_hub", "me/x"])
    merge.main()
    card = (whole / "README.md").read_text()
    assert "fovea eval me/x --dataset_name" in card and "GRPO" in card and "base_model: tiny" in card
    assert "library_name: transformers" in card and "- grpo" in card and "lora" not in card and "adapter" not in card
    assert {"README.md", "run.json", "model.safetensors", "config.json"} <= set(uploaded["me/x"])


@pytest.mark.parametrize("name", ["./none", "/none/at/all", "a/b/c", "here/none"])
def test_a_model_path_that_leads_nowhere_is_refused_without_asking_a_hub(name, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        resolve_path(name)


def test_hub_ids_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_path("Qwen/Qwen3-VL-4B-Instruct") == "Qwen/Qwen3-VL-4B-Instruct"


def test_features_are_shared_only_between_equal_frozen_towers_and_never_their_weights(tiny):
    source = copy.deepcopy(tiny.network)
    remember_image_features(source, max_bytes=2**20)
    freeze_vision(source)
    equal, other = copy.deepcopy(source), copy.deepcopy(source)
    with torch.no_grad():
        next(other.model.visual.parameters()).add_(1)
    share_image_features(source, equal)
    share_image_features(source, other)
    assert equal.model.image_features is source.model.image_features
    assert other.model.image_features is not source.model.image_features
    pixels, grid = torch.randn(64, 384), torch.tensor([[1, 8, 8]])
    read = [network.model.get_image_features(pixels, grid).pooler_output[0] for network in (source, equal)]
    assert read[0].data_ptr() == read[1].data_ptr(), "remembered once"
    weights = list(equal.model.visual.parameters())
    assert {w.data_ptr() for w in weights}.isdisjoint(w.data_ptr() for w in source.model.visual.parameters())
    for weight in weights:  # as TRL mixes the policy into its reference
        weight.data.mul_(0.5).add_(0.5 * weight.data)
    with torch.no_grad():
        weights[0].add_(0.1)
    assert not torch.equal(equal.model.get_image_features(pixels, grid).pooler_output[0], read[0])
    assert torch.equal(source.model.get_image_features(pixels, grid).pooler_output[0], read[0])
    trained = copy.deepcopy(source)
    source.model.visual.requires_grad_(True)
    share_image_features(source, trained)
    assert trained.model.image_features is not source.model.image_features


def adapter(folder, base) -> str:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base and str(base)}))
    return str(folder)


def test_a_chain_of_adapters_is_followed_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "runs" / "base").mkdir(parents=True)
    (tmp_path / "runs" / "base" / "config.json").write_text("{}")
    first = adapter(tmp_path / "runs" / "first", "runs/base")
    second = adapter(tmp_path / "runs" / "second", first)
    monkeypatch.chdir("/")
    assert adapter_chain(second) == (str(tmp_path / "runs" / "base"), [first, second])


@pytest.mark.parametrize("base, reason", [("gone", "stands on .*gone, which is not there"), (None, "names no")])
def test_an_adapter_whose_base_is_not_there_is_refused(tmp_path, base, reason):
    with pytest.raises((FileNotFoundError, ValueError), match=reason):
        adapter_chain(adapter(tmp_path / "runs" / "lora", base and tmp_path / base))


def test_adapters_in_a_circle_are_refused(tmp_path):
    one = adapter(tmp_path / "one", tmp_path / "two")
    adapter(tmp_path / "two", one)
    with pytest.raises(ValueError, match="stands on itself"):
        adapter_chain(one)


def test_a_folder_that_bears_the_name_of_the_base_is_not_taken_for_it(tmp_path, monkeypatch):
    """As where checkpoints are kept under the hub's name of their model."""
    monkeypatch.setattr("fovea.models.names._downloaded_adapter", lambda name, revision: None)
    folder = adapter(tmp_path / "out" / "Qwen" / "Qwen3-VL-4B-Instruct" / "lora", None)
    config = tmp_path / "out" / "Qwen" / "Qwen3-VL-4B-Instruct" / "lora" / "adapter_config.json"
    config.write_text('{"base_model_name_or_path": "Qwen/Qwen3-VL-4B-Instruct"}')
    assert adapter_chain(folder) == ("Qwen/Qwen3-VL-4B-Instruct", [folder])


def test_an_adapter_of_the_hub_is_part_of_the_chain(tmp_path, monkeypatch):
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    downloaded = adapter(tmp_path / "cache" / "snapshot", base)
    found = {"owner/adapter": downloaded}
    monkeypatch.setattr("fovea.models.names._downloaded_adapter", lambda name, revision: found.get(name))
    assert adapter_chain("owner/adapter") == (str(base), [downloaded])
    mine = adapter(tmp_path / "mine", None)
    (tmp_path / "mine" / "adapter_config.json").write_text('{"base_model_name_or_path": "owner/adapter"}')
    assert adapter_chain(mine) == (str(base), [downloaded, mine])


@pytest.mark.parametrize("name", ["qwen2_vl", "llava_onevision", "qwen2_5_vl", "qwen3_vl"])
def test_the_projector_can_be_trained_alone_of_all_that_sees(name):
    made = {"qwen2_vl": qwen2_vl, "llava_onevision": llava_onevision}
    network = made[name]()[0] if name in made else random_model(f"{name}-narrow").network
    freeze_vision(network, train_projector=True)
    parameters = {name: weight.requires_grad for name, weight in network.named_parameters() if "lm_head" not in name}
    seeing = {name: is_trained for name, is_trained in parameters.items() if "language_model" not in name}
    trained = {name for name, is_trained in seeing.items() if is_trained}
    assert trained and all("merger" in name or "multi_modal_projector" in name for name in trained)
    assert not any("merger" in name or "multi_modal_projector" in name for name in seeing.keys() - trained)
    assert all(parameters[name] for name in parameters.keys() - seeing.keys())


def test_weights_are_known_by_what_they_hold(tmp_path):
    """Not by their name, nor by their time; of an adapter also by what it stands on."""
    first, same, other = (tmp_path / name for name in ("first", "same", "other"))
    for folder in (first, same, other):
        shutil.copytree(resolve_path("tiny"), folder)
    path = other / "model.safetensors"
    weights = load_file(path)
    save_file({name: weight + 1e-3 for name, weight in weights.items()}, path, metadata={"format": "pt"})
    assert weights_mark(str(first)) == weights_mark(str(same)) == weights_mark("tiny") != weights_mark(str(other))
    adapters = []
    for name, base in (("one", first), ("two", other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
        save_file({"a": torch.ones(2)}, tmp_path / name / "adapter_model.safetensors")
        adapters.append(weights_mark(str(tmp_path / name)))
    assert adapters[0] != adapters[1]


def test_an_adapter_is_not_merged_into_the_folder_that_it_comes_from(tmp_path, monkeypatch):
    """An adapter left in that folder would be applied to the merged weights once more."""
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("sys.argv", ["fovea merge", str(tmp_path), "--output_dir", str(tmp_path)])
    with pytest.raises(ConfigError, match="holds the model that this starts from"):
        merge.main()
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("tiny", "is a whole model already"),
        (tmp_path / "empty", "name the folder of a checkpoint"),
    ):
        monkeypatch.setattr("sys.argv", ["fovea merge", str(name), "--output_dir", str(tmp_path / "out")])
        with pytest.raises(ConfigError, match=message):
            merge.main()
