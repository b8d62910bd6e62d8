"""Slice `kernels`: attention of packed groups on this device, forward and backward, against float64."""

from __future__ import annotations

from functools import partial
from itertools import accumulate, pairwise, product
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu.cases import Case, device
from benchmarks.image_blocks import measured
from fovea.kernels.layouts import PackedGroups
from fovea.kernels.masked_layouts import OUTSIDE, BlockedGroups

COMMON, PREFIXES, BRANCHES = 37, [200, 1, 513], [[64, 1, 130, 255], [17], [256] * 4]
SMALL = 5, [20, 1, 33], [[6, 1, 13], [7], [16] * 3]
HEADS = {"8 of 8": (8, 8), "16 of 2": (16, 2), "28 of 4": (28, 4)}
"""Query heads and key heads; the second and third are those of Qwen2.5-VL-3B and 7B."""


def cases(small: bool) -> list[Case]:
    masked = f"images that do not see each other, {'fp32' if small else 'bf16'}"
    plain = [
        Case("kernels", name, 10, partial(_measure, dtype, SMALL if small else (COMMON, PREFIXES, BRANCHES)))
        for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32))
    ]
    return [*plain, Case("kernels", masked, 15, partial(_measure_masked, small))]


def _measure_masked(small: bool, seconds_left: float) -> dict[str, Any]:
    """A masked layer against float64, and how much faster than a plain one it is with images of 729 tokens."""
    common, prefixes, branches = SMALL if small else (COMMON, PREFIXES, BRANCHES)
    images = [OUTSIDE] * (common + sum(prefixes) + sum(map(sum, branches)))
    starts = list(accumulate([common, *prefixes, *(length for lengths in branches for length in lengths)]))
    for number, (start, end) in enumerate(pairwise(starts)):  # two images side by side in each part, text around them
        quarter = (end - start) // 4
        images[start + quarter : start + 3 * quarter] = [2 * number] * quarter + [2 * number + 1] * quarter
    numbers = torch.tensor(images)
    mask = _mask(common, prefixes, branches) & ((numbers[:, None] == OUTSIDE) | (numbers[:, None] == numbers))
    layout = BlockedGroups(PackedGroups(common, prefixes, branches, torch.device(device())), images, [0])
    dtype = torch.float32 if small else torch.bfloat16
    errors = _errors(dtype, layout, mask.to(device()), *HEADS["28 of 4"], 128)
    worst = {name: max(error for of, error in errors.items() if of.startswith(name)) for name in ("ours", "stock")}
    shapes = {"0.5B": ([14, 2], 64), "7B": ([28, 4], 128)}
    counts = (2,) if small else (2, 5, 10, 24)
    times = {
        f"{size}, {count} images": measured(count, 200, *shape, device(), 5)
        for size, shape in shapes.items()
        for count in counts
    }
    text = f"largest error {worst['ours']:.1e} (PyTorch's masked attention {worst['stock']:.1e}); faster than plain: "
    return {"text": text + ", ".join(f"{name} {ratio:.2f}x" for name, ratio in times.items()), "errors": errors,
            "times": times}  # fmt: skip


def _measure(dtype: torch.dtype, lengths: tuple[int, list[int], list[list[int]]], seconds_left: float) -> dict:
    layout = PackedGroups(*lengths, torch.device(device()))
    mask = _mask(*lengths).to(device())
    rows: dict[str, dict[str, float]] = {}
    for width, (name, (heads, key_heads)) in product((64, 128), HEADS.items()):
        rows[f"heads {name}, width {width}"] = _errors(dtype, layout, mask, heads, key_heads, width)
    worst = {
        f"{side} {pass_}": max(
            value
            for row in rows.values()
            for what, value in row.items()
            if what.startswith(side) and what.endswith("forward") == (pass_ == "forward")
        )
        for side in ("ours", "stock")
        for pass_ in ("forward", "backward")
    }
    text = "largest error, of the largest value: " + "; ".join(
        f"{pass_} {worst[f'ours {pass_}']:.1e} (PyTorch's masked attention {worst[f'stock {pass_}']:.1e})"
        for pass_ in ("forward", "backward")
    )
    return {"text": text, "worst": worst, "rows": rows}


def _errors(
    dtype: torch.dtype, layout: PackedGroups, mask: torch.Tensor, heads: int, key_heads: int, width: int
) -> dict[str, float]:
    """Largest differences from float64, of the largest value: of the layout and of PyTorch's own masked attention."""
    torch.manual_seed(0)
    shapes = (heads, key_heads, key_heads, heads)
    q, k, v, grad = (
        torch.randn(1, count, len(mask), width, dtype=torch.float64, device=device()).to(dtype) for count in shapes
    )
    exact = _gradients(partial(_by_mask, mask), *(x.double() for x in (q, k, v, grad)))
    ours = _gradients(lambda q, k, v: layout.attend(0, q, k, v, q.shape[-1] ** -0.5), q, k, v, grad)
    stock = _gradients(partial(_by_mask, mask), q, k, v, grad)
    return {
        f"{side} {what}": float((result.double() - right).abs().max() / right.abs().max())
        for side, results in (("ours", ours), ("stock", stock))
        for what, result, right in zip(("forward", "q", "k", "v"), results, exact, strict=True)
    }


def _gradients(attend: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, grad: torch.Tensor) -> list:
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    output = attend(*leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, grad)]


def _by_mask(mask: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    repeats = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(repeats, dim=1) for x in (k, v))
    return scaled_dot_product_attention(q, keys, values, mask)


def _mask(common: int, prefixes: list[int], branches: list[list[int]]) -> torch.Tensor:
    """[N, N], True where a token of the row may see another: the definition that `PackedGroups` computes by parts."""
    group, branch = [-1] * common, [-1] * common
    for number, length in enumerate(prefixes):
        group, branch = group + [number] * length, branch + [-1] * length
    for number, lengths in enumerate(branches):
        for place, length in enumerate(lengths):
            group, branch = group + [number] * length, branch + [place] * length
    groups, parts = torch.tensor(group), torch.tensor(branch)
    is_shared = groups == -1
    in_group = (groups[:, None] == groups) & ((parts == -1) | (parts[:, None] == parts))
    return torch.ones(len(groups), len(groups), dtype=torch.bool).tril() & (is_shared | in_group)
