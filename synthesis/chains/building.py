"""The five stages over one pool of pictures: what each works on follows from the lines of those before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from fovea.chains import Chain, Step
from fovea.config import ConfigError
from fovea.data.identity import digest
from fovea.images import ImageError, image_hash, open_image
from synthesis.agent.roles import RoleError, Usage, checked_text
from synthesis.chains.checking import problems
from synthesis.chains.index import candidates
from synthesis.chains.paths import sample_paths
from synthesis.chains.roles import NAMES, Draft, Link, Profile, Relation
from synthesis.chains.stages import Job, Shard, Stage, asked
from synthesis.duplicates import HashTable, perceptual_hash


@dataclass(frozen=True)
class Plan:
    """How many chains of which shape; the options of the command of the same names."""

    num_candidates: int = 4
    num_chains: int = 500
    num_images: tuple[int, ...] = (2, 3, 4)
    num_distractors: tuple[int, ...] = (0, 1, 2)
    max_uses: int = 3
    max_asks: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Pool:
    """Pictures by a hash of their pixels, and which were left out: that look like another one, or cannot be opened."""

    pictures: Mapping[str, Path]
    alike: tuple[Path, ...] = ()
    broken: tuple[Path, ...] = ()


def pool_of(paths: Sequence[Path]) -> Pool:
    """The pictures at these paths, each once. One that looks like an earlier one would be connected with it for no
    reason."""
    pictures: dict[str, Path] = {}
    table, alike, broken = HashTable(), list[Path](), list[Path]()
    for number, path in enumerate(tqdm(paths, desc="pictures")):
        try:
            image = open_image(path)
        except ImageError:
            broken.append(path)
            continue
        key, seen = image_hash(image), perceptual_hash(image)
        if key in pictures or any(True for _ in table.owners_of(seen)):
            alike.append(path)
            continue
        table.add(seen, number)
        pictures[key] = path
    return Pool(pictures, tuple(alike), tuple(broken))


@dataclass(frozen=True)
class Album:
    """The pictures of a chain in the order in which they are shown, and the links of its path by their numbers."""

    pictures: tuple[str, ...]
    links: tuple[Link, ...]


@dataclass
class Builder:
    """The stages of a pool. `words` are what the key of a line depends on beside what its role was shown."""

    folder: Path
    plan: Plan
    roles: Mapping[str, Any]
    words: Mapping[str, str]
    pool: Pool

    def run(self, last: str | None, shard: Shard, num_workers: int, *, works: bool = True) -> dict[str, Stage]:
        """All stages worked on, or the `last` one alone; without `works` they are read as they are.

        Raises:
            ConfigError: if a stage that is not worked on has lines missing.
        """
        stages: dict[str, Stage] = {}
        for name in NAMES:
            stage = stages[name] = Stage(self.folder, name, shard)
            jobs: dict[str, Job] = getattr(self, f"_{name}")(stages)
            if works and last in (None, name):
                stage.work(jobs, num_workers)
            elif missing := sum(key not in stage.lines for key in jobs):
                raise ConfigError(f"{missing} of {len(jobs)} lines of {name} are missing: finish --stage {name}")
            if name == last:
                break
        return stages

    def profiles(self, stages: Mapping[str, Stage]) -> dict[str, Profile]:
        """Of each picture that has one, mended ones included."""
        keys = {self._key("extract", picture): picture for picture in self.pool.pictures}
        return {keys[key]: Profile.from_json(value) for key, value in stages["extract"].values(keys)}

    def pairs(self, stages: Mapping[str, Stage]) -> dict[str, tuple[str, str]]:
        """The pairs of pictures that are asked about, by the keys of their lines."""
        profiles = self.profiles(stages)
        return {
            self._key("connect", profiles[a].to_json(), profiles[b].to_json()): (a, b)
            for a, b in candidates(profiles, self.plan.num_candidates)
        }

    def edges(self, stages: Mapping[str, Stage]) -> dict[str, tuple[str, str, str]]:
        """The connected pairs with what they share, by the keys of their relations' lines."""
        pairs = self.pairs(stages)
        found = [(*pairs[key], shared) for key, shared in stages["connect"].values(pairs) if shared]
        return {self._key("annotate", *edge): edge for edge in found}

    def relations(self, stages: Mapping[str, Stage]) -> dict[tuple[str, str], tuple[str, Relation]]:
        """What related pairs share, and how the first relates to the second."""
        edges = self.edges(stages)
        found = {}
        for key, value in stages["annotate"].values(edges):
            a, b, shared = edges[key]
            if value is not None and (relation := Relation.of((value["kind"], value["words"]))):
                found[a, b] = shared, relation
        return found

    def albums(self, stages: Mapping[str, Stage]) -> dict[str, Album]:
        """Paths through related pictures with others around them, by the keys of their questions' lines."""
        relations, plan = self.relations(stages), self.plan
        rng = np.random.default_rng(plan.seed)
        found = {}
        paths = sample_paths(
            sorted(relations), plan.num_chains, plan.num_images, seed=plan.seed, max_uses=plan.max_uses
        )
        for path in paths:
            strangers = self._strangers(path, relations, int(rng.choice(plan.num_distractors)), rng)
            shown = [*path, *strangers]
            pictures = tuple(shown[place] for place in rng.permutation(len(shown)))
            links = []
            for a, b in (sorted(pair) for pair in pairwise(path)):
                links.append(Link(pictures.index(a), pictures.index(b), *relations[a, b]))
            key = self._key("ask", pictures, [[link.images, link.shared, link.relation.words] for link in links])
            found[key] = Album(pictures, tuple(links))
        return found

    def drafts(self, stages: Mapping[str, Stage]) -> dict[str, tuple[Album, Draft]]:
        """Albums with their questions, mended ones included, by the keys of their checks' lines."""
        albums = self.albums(stages)
        found = {}
        for key, value in stages["ask"].values(albums):
            album = albums[key]
            found[self._key("look", album.pictures, value)] = album, _draft_of(value, album)
        return found

    def _strangers(
        self, path: Sequence[str], relations: Mapping[tuple[str, str], Any], number: int, rng: np.random.Generator
    ) -> list[str]:
        """Pictures that are related to none of the path."""
        near = {picture for pair in relations if set(pair) & set(path) for picture in pair} | set(path)
        found: list[str] = []
        pictures = list(self.pool.pictures)
        for _ in range(20 * number):
            other = pictures[rng.integers(len(pictures))]
            if len(found) < number and other not in near and other not in found:
                found.append(other)
        return found

    def _extract(self, stages: Mapping[str, Stage]) -> dict[str, Job]:
        def read(value: Any) -> Any:
            return (value if isinstance(value, Profile) else Profile.from_json(value)).to_json()

        role = self.roles["extract"]
        return {self._key("extract", key): self._job([key], role.extract, read, path)
                for key, path in self.pool.pictures.items()}  # fmt: skip

    def _connect(self, stages: Mapping[str, Stage]) -> dict[str, Job]:
        def read(value: Any) -> str | None:
            return None if value is None else checked_text(value)

        role, profiles = self.roles["connect"], self.profiles(stages)
        return {key: self._job([a, b], role.connect, read, profiles[a], profiles[b])
                for key, (a, b) in self.pairs(stages).items()}  # fmt: skip

    def _annotate(self, stages: Mapping[str, Stage]) -> dict[str, Job]:
        role = self.roles["annotate"]

        def both(first: Image.Image, second: Image.Image, shared: str, usage: Usage) -> Any:
            there = Relation.of(role.annotate(first, second, shared, usage))
            back = Relation.of(role.annotate(second, first, shared, usage))
            return there, back

        def read(value: tuple[Relation | None, Relation | None]) -> Any:
            there, back = value
            if there is None or back is None:
                return None
            if there.kind is not back.kind:
                raise RoleError(f"the relation differs both ways: {there.kind} and {back.kind}")
            return {"kind": there.kind.value, "words": there.words}

        paths = self.pool.pictures
        return {key: self._job([a, b], both, read, paths[a], paths[b], shared)
                for key, (a, b, shared) in self.edges(stages).items()}  # fmt: skip

    def _ask(self, stages: Mapping[str, Stage]) -> dict[str, Job]:
        profiles, role = self.profiles(stages), self.roles["ask"]

        def job(album: Album) -> Job:
            shown = {n: profiles[album.pictures[n]] for link in album.links for n in link.images}

            def read(value: Any) -> Any:
                draft = Draft.of(value, album.links, len(album.pictures))
                return {"question": draft.question, "answer": draft.chain.answer, **draft.chain.metadata()}

            return self._job(album.pictures, role.ask, read, shown, album.links)

        return {key: job(album) for key, album in self.albums(stages).items()}

    def _look(self, stages: Mapping[str, Stage]) -> dict[str, Job]:
        role = self.roles["look"]

        def job(album: Album, draft: Draft) -> Job:
            def examine(usage: Usage) -> list[str]:
                images = {number: open_image(self.pool.pictures[key]) for number, key in enumerate(album.pictures)}

                def look(question: str, shown: Mapping[int, Image.Image]) -> str:
                    return asked(lambda: role.look(question, shown, usage), checked_text, self.plan.max_asks)

                return list(problems(draft.question, draft.chain, images, look))

            return Job(self._about(album.pictures), examine)

        return {key: job(*both) for key, both in self.drafts(stages).items()}

    def _about(self, pictures: Sequence[str]) -> list[str]:
        return [str(self.pool.pictures[picture]) for picture in pictures]

    def _job(self, pictures: Sequence[str], play: Callable[..., Any], read: Callable[[Any], Any], *shown: Any) -> Job:
        """A job that asks a role about what is shown; pictures are opened when it is its turn."""

        def job(usage: Usage) -> Any:
            given = [open_image(one) if isinstance(one, Path) else one for one in shown]
            return asked(lambda: play(*given, usage), read, self.plan.max_asks)

        return Job(self._about(pictures), job)

    def _key(self, role: str, *shown: Any) -> str:
        return digest([role, self.words[role], *shown])


def _draft_of(value: Mapping[str, Any], album: Album) -> Draft:
    """The draft of a line.

    Raises:
        RoleError: for a line that was mended into something else.
    """
    try:
        rows = zip(value["sub_questions"], value["foci"], value["sub_answers"], strict=True)
        steps = tuple(Step(str(question), tuple(focus), str(answer)) for question, focus, answer in rows)
        return Draft(checked_text(value["question"]), Chain(steps, str(value["answer"])))
    except (KeyError, TypeError, ValueError) as error:
        raise RoleError(f"a line of ask holds {value!r:.200}, which is no chain ({error})") from None
