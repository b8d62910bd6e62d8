"""Image features computed once: a frozen vision tower gives the same features for the same pixels every time."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from fovea.bounded_cache import BoundedCache
from fovea.ledger import count, phase


def remember_image_features(network: Any, *, max_bytes: int) -> None:
    """Lets `network` keep the features of images that it has seen, up to `max_bytes`, as long as its tower is frozen.

    Images are told apart by their pixels, and equal ones within a batch are encoded once. Weights that are loaded,
    moved or changed in place are noticed, and features made before are not used again. A tower with a trainable
    parameter, or one whose weights are sharded between processes (which then have to run it together), is called as
    ever.
    """
    base = network.base_model
    if not hasattr(base, "visual") or isinstance(getattr(base, "image_features", None), _Memory):
        return
    base.image_features = _Memory(max_bytes)
    base.get_image_features = MethodType(_get_image_features, base)


def share_image_features(source: Any, target: Any) -> None:
    """Lets `target` read what `source` remembers of images, as long as both towers are frozen and equal.

    Each keeps weights of its own, so that one may be changed in place without the other.
    """
    source, target = source.base_model, target.base_model
    memory = getattr(source, "image_features", None)
    if not isinstance(memory, _Memory):
        return
    weights, others = list(source.visual.parameters()), list(target.visual.parameters())
    if any(weight.requires_grad or _is_sharded(weight) for weight in weights) or any(map(_is_sharded, others)):
        return
    if all(a.dtype == b.dtype and torch.equal(a, b.to(a.device)) for a, b in zip(weights, others, strict=True)):
        target.visual.requires_grad_(False)
        target.image_features = memory
        target.get_image_features = MethodType(_get_image_features, target)
        memory.alike(weights, others)


class _Memory:
    """Features by weights and content, one tensor a level. Weights are known by their place and version."""

    def __init__(self, max_bytes: int) -> None:
        self.features: BoundedCache[list[torch.Tensor]] = BoundedCache(
            max_bytes, size=lambda levels: sum(t.nbytes for t in levels)
        )
        self._names: dict[tuple, int] = {}

    def name(self, weights: list[torch.Tensor]) -> bytes:
        """A name for the current values of weights. Changed weights get a new name."""
        return str(self._names.setdefault(_state(weights), len(self._names))).encode()

    def alike(self, weights: list[torch.Tensor], others: list[torch.Tensor]) -> None:
        """Gives `others`, which have the same values now, the same name."""
        self._names[_state(others)] = self._names.setdefault(_state(weights), len(self._names))


def _state(weights: list[torch.Tensor]) -> tuple:
    return tuple((weight.data_ptr(), weight._version) for weight in weights)


def _is_sharded(weight: torch.Tensor) -> bool:
    """Returns True if ZeRO-3 or FSDP has split a weight between processes."""
    return hasattr(weight, "ds_id") or isinstance(weight, DTensor) or hasattr(weight, "_is_flat_param")


def content_key(pixel_values: torch.Tensor) -> bytes:
    """A key that equal patches [patches, width] on one device share; on a GPU it is computed there.

    To hash on the CPU, a GPU would have to send all pixels of a batch, each shared image once a rollout.
    """
    pixels = pixel_values.detach().contiguous()
    if pixels.device.type == "cpu":
        return hashlib.blake2b(pixels.view(torch.uint8).numpy().data, digest_size=16).digest()
    return multilinear_hash(pixels.view(torch.int32))


def multilinear_hash(words: torch.Tensor) -> bytes:
    """128 bits of a table of integers, by integer arithmetic modulo 2^64.

    Each row is the sum of its mixed words times pseudo-random weights, and so is the whole of its rows.
    """
    halves = []
    for seed in (1, 2):
        of_words = _weights(words.shape[1], seed, words.device)
        of_rows = _mixed(torch.cat([(_mixed(part.long()) * of_words).sum(1) for part in words.split(_ROWS_AT_ONCE)]))
        halves.append((of_rows * _weights(len(of_rows), -seed, words.device)).sum())
    return struct.pack("<qqq", len(words), *torch.stack(halves).tolist())


_ROWS_AT_ONCE = 8192


def _weights(count: int, seed: int, device: torch.device) -> torch.Tensor:
    """Pseudo-random 64-bit integers [count]: the sequence of SplitMix64 (Steele, Lea and Flood 2014)."""
    return _mixed((torch.arange(count, device=device) + (seed << 40)) * -0x61C8864680B583EB)


def _mixed(words: torch.Tensor) -> torch.Tensor:
    """SplitMix64's finisher, by which every bit depends on every other (its shifts are arithmetic here)."""
    words = (words ^ (words >> 30)) * -0x40A7B892E31B1A47
    words = (words ^ (words >> 27)) * -0x6B2FB644ECCEEE15
    return words ^ (words >> 31)


_PATCHES_AT_ONCE = 2048
"""Patches that a CPU encodes together: what one layer leaves for the next then stays in its cache."""


def _runs(lengths: Sequence[int], device: torch.device) -> Iterator[slice]:
    """The images of these numbers of patches in runs that are encoded together; on an accelerator all are one run."""
    start, patches = 0, 0
    for place, length in enumerate(lengths):
        if device.type == "cpu" and place > start and patches + length > _PATCHES_AT_ONCE:
            yield slice(start, place)
            start, patches = place, 0
        patches += length
    yield slice(start, len(lengths))


@phase("vision")
def _get_image_features(self: Any, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, **kwargs: Any) -> Any:
    """Transformers' method of the same name: `pooler_output` and, in Qwen3-VL, `deepstack_features`, per image."""
    kwargs.pop("layout", None)
    stock = type(self).get_image_features
    weights = list(self.visual.parameters())
    if any(weight.requires_grad or _is_sharded(weight) for weight in weights):
        count("images encoded", len(image_grid_thw))
        return stock(self, pixel_values, image_grid_thw, **kwargs)
    memory: _Memory = self.image_features
    name = memory.name(weights)
    pixels = pixel_values.split(image_grid_thw.prod(-1).tolist())
    keys = [
        name + content_key(patches) + str(grid.tolist()).encode()
        for patches, grid in zip(pixels, image_grid_thw, strict=True)
    ]
    missing = {key: number for number, key in enumerate(keys) if key not in memory.features}
    if missing:
        count("images encoded", len(missing))
        new, rows = list(missing), list(missing.values())
        for run in _runs([len(pixels[row]) for row in rows], pixel_values.device):
            with torch.no_grad():
                output = stock(self, torch.cat([pixels[row] for row in rows[run]]), image_grid_thw[rows[run]], **kwargs)
            levels = [output.pooler_output, *(getattr(output, "deepstack_features", None) or ())]
            for index, key in enumerate(new[run]):
                memory.features[key] = [level[index].clone() for level in levels]
    found = [memory.features[key] for key in keys]
    memory.features.trim()
    pooled, *deep = (list(level) for level in zip(*found, strict=True))
    return SimpleNamespace(pooler_output=pooled, deepstack_features=deep)
