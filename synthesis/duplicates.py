"""Pictures that look alike, by perceptual hash (ImageHash): 256 bits of the low frequencies of a picture.

Resizing changes up to 16 bits of a procedural scene, JPEG at quality 60 ten in the median and 42 at most; two different
scenes of 500 are at least 42 apart. Strongly compressed, cropped or mirrored copies are not found.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image

HASH_SIDE = 16
MAX_BITS = 24
"""Bits in which two pictures may differ that are taken for one."""


def perceptual_hash(image: Image.Image) -> np.ndarray:
    """The hash of a picture: 32 bytes."""
    import imagehash

    return np.packbits(imagehash.phash(image, hash_size=HASH_SIDE).hash.ravel())


def alike(first: np.ndarray, others: np.ndarray, max_bits: int = MAX_BITS) -> np.ndarray:
    """Positions in `others` [n, 32] of the hashes that differ from `first` [32] in `max_bits` at most."""
    return np.flatnonzero(np.bitwise_count(others ^ first).sum(axis=1) <= max_bits)


class HashTable:
    """Hashes, with what each belongs to, found again by likeness."""

    def __init__(self) -> None:
        self._hashes = np.zeros((0, HASH_SIDE**2 // 8), dtype=np.uint8)
        self._owners: list[int] = []

    def add(self, picture_hash: np.ndarray, owner: int) -> None:
        """Remembers a hash."""
        if len(self._owners) == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.zeros((max(64, len(self._hashes)), 32), dtype=np.uint8)])
        self._hashes[len(self._owners)] = picture_hash
        self._owners.append(owner)

    def owners_of(self, picture_hash: np.ndarray) -> Iterator[int]:
        """Owners of the hashes that are like this one, in the order in which they were added."""
        for place in alike(picture_hash, self._hashes[: len(self._owners)]):
            yield self._owners[place]

    def hash_of(self, place: int) -> np.ndarray:
        """The hash that was added as the nth, from 0."""
        return self._hashes[place]
