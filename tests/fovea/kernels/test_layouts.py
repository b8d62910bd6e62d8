"""Packed groups against the oracle: one call of attention with a dense mask over the whole row."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from fovea.kernels.layouts import PackedGroups


def dense_mask(common, prefixes, branches):
    """[N, N]: causal, within the own branch, the prefix of the own group and the common tokens (group -1)."""
    group = [-1] * common + [number for number, prefix in enumerate(prefixes) for _ in range(prefix)]
    branch = [0] * len(group)
    for number, lengths in enumerate(branches):
        group += [number] * sum(lengths)
        branch += [index for index, length in enumerate(lengths, start=1) for _ in range(length)]
    group, branch = torch.tensor(group), torch.tensor(branch)
    visible = (branch[None] == 0) | (branch[None] == branch[:, None])
    return (visible & ((group[None] == group[:, None]) | (group[None] == -1))).tril()


@pytest.mark.parametrize(
    ("prefixes", "branches"),
    [
        ([5], [[3]]),
        ([7], [[2, 9, 1, 4]]),
        ([7, 3], [[2, 20, 1], [4, 4]]),
        ([1, 12, 2], [[30], [1, 2, 3, 4, 5, 6, 7, 8], [29, 1]]),
    ],
)
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("common", [0, 6])
def test_packed_groups_attend_as_a_dense_mask_says(prefixes, branches, key_heads, common):
    torch.manual_seed(0)
    mask = dense_mask(common, prefixes, branches)
    q, k, v = (torch.randn(1, heads, len(mask), 8, requires_grad=True) for heads in (4, key_heads, key_heads))
    weights = torch.randn(1, 4, len(mask), 8)
    layout = PackedGroups(common, prefixes, branches, torch.device("cpu"))
    results = []
    for output in (
        scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3, enable_gqa=key_heads < 4),
        layout.attend(0, q, k, v, 0.3),
    ):
        results.append([output, *torch.autograd.grad((output * weights).sum(), (q, k, v))])
    for oracle, ours in zip(*results, strict=True):
        assert torch.allclose(oracle, ours, atol=1e-5)
