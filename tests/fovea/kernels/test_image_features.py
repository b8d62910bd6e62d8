"""Images are told apart by their pixels, wherever these are."""

import torch

from fovea.kernels.image_features import content_key, multilinear_hash


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
