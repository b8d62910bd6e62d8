"""Fewer tokens an image: which features, at which places, and nothing else."""

import numpy as np
import pytest
import torch
from PIL import Image

from environments.rendering import Renderer
from fovea.images import coarser, fit
from fovea.kernels.layouts import rope_positions
from fovea.kernels.token_pooling import pool, pooled_tokens
from fovea.models.loading import Model
from fovea.models.processors import limited, pixel_limits
from fovea.models.random_models import random_model
from tests.families import llava_onevision, qwen2_vl


def of_family(name):
    if name.endswith("narrow"):
        model = random_model(name)
        limited(model.processor, 56 * 56, None)
        return model
    torch.manual_seed(0)
    network, processor = {"qwen2_vl": qwen2_vl, "llava_onevision": llava_onevision}[name]()
    return Model(network, processor, name)


FAMILIES = ["qwen2_vl", "qwen2_5_vl-narrow", "qwen3_vl-narrow", "llava_onevision"]
PICTURES = [Image.linear_gradient("L").convert("RGB").resize(size) for size in ((84, 112), (140, 56))]


def prompt(renderer, pictures):
    ids = []
    for number, picture in enumerate(pictures):
        ids += renderer.tokenizer(f"Image {number}: ").input_ids
        ids += [renderer.image_token_id] * renderer.image_inputs(picture).num_tokens
    return ids + renderer.tokenizer(" which?").input_ids


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("factor", [2, 4, 100])
def test_features_are_means_of_neighbours_and_the_model_takes_them(name, factor):
    model = of_family(name)
    base = model.network.base_model
    whole, short = Renderer(model.processor), Renderer(model.processor, token_pooling=factor)
    pixels = {
        key: value for key, value in whole.model_inputs([prompt(whole, PICTURES)], [PICTURES]).items()
        if key in ("pixel_values", "image_grid_thw", "image_sizes")
    }  # fmt: skip
    defaults = (
        {} if "image_sizes" not in pixels else {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    )
    with torch.no_grad():
        features = base.get_image_features(**pixels, **defaults).pooler_output
        with pooled_tokens(model.network, factor):
            means = base.get_image_features(**pixels, **defaults).pooler_output
            inputs = short.model_inputs(
                [prompt(short, PICTURES), prompt(short, PICTURES[:1])], [PICTURES, PICTURES[:1]]
            )
            logits = model.network(**inputs).logits
            written = model.network.generate(**inputs, max_new_tokens=3, do_sample=False, eos_token_id=None)
        again = base.get_image_features(**pixels, **defaults).pooler_output
    for feature, mean, after in zip(features, means, again, strict=True):
        assert len(mean) == -(-len(feature) // factor) and torch.equal(feature, after)
        assert torch.allclose(mean[-1], feature[(len(mean) - 1) * factor :].mean(0), atol=1e-6)
        assert torch.allclose(mean[0], feature[:factor].mean(0), atol=1e-6)
    assert logits.shape[:2] == inputs["input_ids"].shape and written.shape[1] == logits.shape[1] + 3
    assert logits.shape[1] < len(prompt(whole, PICTURES))


@pytest.mark.parametrize("name", ["qwen2_5_vl-narrow", "qwen3_vl-narrow"])
def test_means_stand_at_the_middle_of_their_tokens_and_text_where_it_stood(name):
    model = of_family(name)
    whole, short = Renderer(model.processor), Renderer(model.processor, token_pooling=3)
    grids = [whole.image_inputs(picture).extent for picture in PICTURES]
    before = rope_positions(model.network, prompt(whole, PICTURES), whole.image_token_id, grids)
    with pooled_tokens(model.network, 3):
        after = rope_positions(model.network, prompt(short, PICTURES), short.image_token_id, grids)
    kept, left = [], []
    for at, token in enumerate(prompt(whole, PICTURES)):  # groups of three by counting, not by arithmetic
        if token != whole.image_token_id:
            kept += [
                left[start : start + 3][(len(left[start : start + 3]) - 1) // 2] for start in range(0, len(left), 3)
            ]
            left = []
            kept.append(at)
        else:
            left.append(at)
    assert torch.equal(after, before[:, kept])


def test_pooling_by_one_changes_nothing_and_less_is_refused():
    model = of_family("qwen3_vl-narrow")
    stock = model.network.base_model.get_rope_index
    with pooled_tokens(model.network, 1):
        assert model.network.base_model.get_rope_index == stock
    with pytest.raises(ValueError, match="below 1"), pooled_tokens(model.network, 0):
        pass
    assert torch.equal(pool(torch.tensor([[1.0], [3.0], [8.0]]), 2), torch.tensor([[2.0], [8.0]]))


def test_the_control_keeps_the_size_and_loses_detail():
    checks = Image.fromarray((torch.arange(64 * 64).reshape(64, 64) % 2 * 255).to(torch.uint8).numpy()).convert("RGB")
    less = coarser(checks, 4)
    assert less.size == checks.size and coarser(checks, 1) is checks
    assert max(high - low for low, high in less.getextrema()) < 10 < 255


@pytest.mark.parametrize("name", ["qwen2_5_vl-narrow", "llava_onevision"])
@pytest.mark.parametrize("factor", [2, 4, 8])
def test_the_control_leaves_as_little_of_a_picture_of_any_size(name, factor):
    """Of what the model sees: a large picture is shrunk to a tile anyway."""
    model = of_family(name)
    if name != "llava_onevision":
        limited(model.processor, None, 112 * 112)
    left = []
    for scale in (1, 4):
        side = scale * (112 if name != "llava_onevision" else model.processor.image_processor.size["height"])
        noise = np.random.default_rng(0).normal(128, 90, (side, side)).clip(0, 255)
        picture = Image.fromarray(noise.astype("uint8")).convert("RGB")
        seen = fit(picture, pixel_limits(model.processor))
        whole, less = (
            Renderer(model.processor, pixel_pooling=pooling).image_inputs(seen, among_several=True).pixel_values
            for pooling in (1, factor)
        )
        assert whole.shape == less.shape
        left.append(float(torch.corrcoef(torch.stack([whole.flatten(), less.flatten()]))[0, 1]))
    assert left[0] < 0.85 and abs(left[0] - left[1]) < 0.25
