"""Images are told apart by their pixels, wherever these are."""

import pytest
import torch

from fovea.kernels import image_features
from fovea.kernels.image_features import content_key, multilinear_hash
from fovea.models.loading import load_model


def test_every_single_change_and_every_order_has_a_hash_of_its_own():
    """Words with many zero bits at their end are the hard ones for a sum of products."""
    zeros = torch.zeros(40, 96)
    tables = [zeros, zeros[:39], torch.ones(40, 96)]
    for row in range(40):
        for column, value in ((0, 0.5), (5, -2.0), (95, 1.0), (95, 2.0**-126)):
            changed = zeros.clone()
            changed[row, column] = value
            tables.append(changed)
    drawn = torch.randn(40, 96, generator=torch.Generator().manual_seed(0))
    swapped = drawn.clone()
    swapped[[3, 4]] = drawn[[4, 3]]
    tables += [drawn, drawn.flip(0), drawn.flip(1), swapped, drawn.roll(1, 1)]
    assert len({multilinear_hash(table.view(torch.int32)) for table in tables}) == len(tables)
    assert multilinear_hash(drawn.view(torch.int32)) == multilinear_hash(drawn.clone().view(torch.int32))


def test_equal_patches_share_a_key_in_every_type():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        patches = torch.randn(8, 12, generator=torch.Generator().manual_seed(0)).to(dtype)
        assert content_key(patches) == content_key(patches.clone()) != content_key(patches + 1)


@pytest.mark.parametrize(("at_once", "runs"), [(1, 5), (100, 5), (128, 4), (320, 3), (10_000, 1)])
def test_features_are_the_same_however_many_images_are_encoded_at_once(monkeypatch, at_once, runs):
    network = load_model("tiny").network
    network.requires_grad_(False)
    base = network.base_model
    grids = torch.tensor([[1, 16, 16], [1, 8, 8], [1, 8, 8], [1, 6, 10], [1, 16, 16]])
    sizes = grids.prod(-1).tolist()
    pixels = torch.rand(sum(sizes), 384, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stock = type(base).get_image_features(base, pixels, grids)
    encoded = []
    monkeypatch.setattr(image_features, "_PATCHES_AT_ONCE", at_once)
    base.visual.register_forward_pre_hook(lambda module, args, kwargs: encoded.append(1), with_kwargs=True)
    ours = base.get_image_features(pixels, grids)
    assert len(encoded) == runs
    for level, wanted in (
        (ours.pooler_output, stock.pooler_output),
        *zip(ours.deepstack_features, stock.deepstack_features, strict=True),
    ):
        assert all(torch.allclose(ours, theirs, atol=1e-5) for ours, theirs in zip(level, wanted, strict=True))
