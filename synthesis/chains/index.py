"""Candidate pairs before any model is asked: each image's nearest by the words of their profiles.

A full-text index of SQLite (FTS5, ranked by BM25) on disk, so that memory stays bounded. A query takes an image's
rarest words first, and no more of them than lead to `MAX_POSTINGS` images, so that its time does not grow with the
pool.
"""

from __future__ import annotations

import re
import sqlite3
import tempfile
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from pathlib import Path

from tqdm import tqdm

from synthesis.chains.roles import Profile

MAX_POSTINGS = 2_000
"""Images that the words of one query may lead to together; the rarest word may lead to more."""
TOKENS = "porter unicode61"
MAX_WORDS = 24
"""Words of one query."""


def words_of(profile: Profile) -> list[str]:
    """The words by which a profile is found: of its objects and interactions, and each object as one word with what it
    is like, so that those who share it whole stand before those who share its colour."""
    words: list[str] = []
    for one in profile.objects:
        parts = _plain(one.words)
        words += [*parts, "".join(sorted(parts)), "".join(_plain(one.name))]
        words += ["".join([*_plain(attribute), *_plain(one.name)]) for attribute in one.attributes]
    for text in (*profile.interactions, profile.background, profile.overview):
        words += _plain(text)
    return list(dict.fromkeys(words))


def _plain(text: str) -> list[str]:
    """The words of a text; where words are not set apart, pairs of letters.

    >>> _plain("A red-hot Kettle"), _plain("红色雨伞")
    (['a', 'red', 'hot', 'kettle'], ['红色', '色雨', '雨伞'])
    """
    words: list[str] = []
    for word in re.findall(r"[^\W_]+", text.lower()):
        is_apart = not _UNSPACED.search(word) or len(word) < 3
        words += [word] if is_apart else [word[place : place + 2] for place in range(len(word) - 1)]
    return words


_UNSPACED = re.compile("[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


class ProfileIndex:
    """Profiles by key, in a file (or in memory, for ":memory:")."""

    def __init__(self, path: str | Path = ":memory:") -> None:
        self._base = sqlite3.connect(path)
        self._base.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-65536;"
            "CREATE VIRTUAL TABLE IF NOT EXISTS profiles USING fts5(key UNINDEXED, words, "
            f"tokenize='{TOKENS}', detail=none);"
            "CREATE VIRTUAL TABLE IF NOT EXISTS vocabulary USING fts5vocab(profiles, row);"
        )

    def add(self, profiles: Iterable[tuple[str, list[str]]]) -> None:
        """Adds keys with their words."""
        rows = ((key, " ".join(words)) for key, words in profiles)
        with self._base:
            self._base.executemany("INSERT INTO profiles(key, words) VALUES (?, ?)", rows)

    def __len__(self) -> int:
        return self._base.execute("SELECT count(*) FROM profiles").fetchone()[0]

    def nearest(self, key: str, words: list[str], number: int) -> list[str]:
        """The keys of at most so many other profiles that share a word, the nearest first."""
        chosen, postings = list[str](), 0
        stems = {stem for stem in map(stem_of, words) if stem is not None}
        for count, word in sorted((self._count(stem), stem) for stem in stems):
            if count < 2:  # its own
                continue
            if chosen and (postings + count > MAX_POSTINGS or len(chosen) == MAX_WORDS):
                break
            chosen.append(word)
            postings += count
        if not chosen:
            return []
        query = " OR ".join(f'"{word}"' for word in chosen)
        found = self._base.execute(
            "SELECT key FROM profiles WHERE profiles MATCH ? ORDER BY rank LIMIT ?", (query, number + 1)
        )
        return [other for (other,) in found if other != key][:number]

    def _count(self, stem: str) -> int:
        """Profiles that hold a word, as the index stems it."""
        row = self._base.execute("SELECT doc FROM vocabulary WHERE term = ?", (stem,)).fetchone()
        return row[0] if row else 0


@lru_cache(maxsize=100_000)
def stem_of(word: str) -> str | None:
    """A word as the index keeps it; None for one that the index takes for several.

    >>> stem_of("running"), stem_of("circles")
    ('run', 'circl')
    """
    base = _stemmer()
    base.execute("DELETE FROM words")
    base.execute("INSERT INTO words(word) VALUES (?)", (word,))
    stems = base.execute("SELECT term FROM stems").fetchall()
    return stems[0][0] if len(stems) == 1 else None


@cache
def _stemmer() -> sqlite3.Connection:
    base = sqlite3.connect(":memory:", check_same_thread=False)
    base.execute(f"CREATE VIRTUAL TABLE words USING fts5(word, tokenize='{TOKENS}')")
    base.execute("CREATE VIRTUAL TABLE stems USING fts5vocab(words, row)")
    return base


def candidates(profiles: Mapping[str, Profile], number: int) -> list[tuple[str, str]]:
    """Pairs of keys that a model is asked about: each profile with its `number` nearest, every pair once, sorted."""
    pairs: set[tuple[str, str]] = set()
    with tempfile.TemporaryDirectory() as folder:
        index = ProfileIndex(Path(folder) / "profiles.sqlite")
        index.add((key, words_of(profile)) for key, profile in profiles.items())
        for key, profile in tqdm(profiles.items(), desc="nearest"):
            for other in index.nearest(key, words_of(profile), number):
                pairs.add((min(key, other), max(key, other)))
    return sorted(pairs)
