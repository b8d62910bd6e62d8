"""The five stages over one pool of pictures: what each works on follows from the lines of those before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from fovea.chains import KEYS, Chain, Step, problem_of
from fovea.config import ConfigError
from fovea.data.identity import digest
from fovea.images import open_image
from synthesis.agent.roles import RoleError, Usage, asked, checked_text
from synthesis.arguments import part_of
from synthesis.chains.arguments import ChainArguments
from synthesis.chains.checking import problems
from synthesis.chains.index import candidates
from synthesis.chains.paths import rng_of, sample_paths, strangers
from synthesis.chains.pool import Pool
from synthesis.chains.roles import NAMES, Draft, Link, Profile, Relation, list_of_reply, text_of_reply
from synthesis.chains.stages import Job, Shard, Stage

Value = TypeVar("Value")


@dataclass(frozen=True)
class Album:
    """The pictures of a chain in the order in which they are shown, and the links of its path by their numbers."""

    pictures: tuple[str, ...]
    links: tuple[Link, ...]


@dataclass
class Builder:
    """The stages of a pool. `cast[role]` plays a role; `cast.words[role]` is what lines of its stage depend on."""

    arguments: ChainArguments
    cast: Any
    pool: Pool
    stages: dict[str, Stage] = field(default_factory=dict)
    _made: dict[str, tuple[list[int], Any]] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return Path(self.arguments.output_dir)

    def run(self) -> None:
        """Works on all stages, or on the one that the arguments name; then those before it are read as they are.

        Raises:
            ConfigError: if a stage that is not worked on has lines missing.
        """
        shard = Shard(*part_of(self.arguments.shard))
        for name in NAMES:
            is_worked_on = self.arguments.stage in ("all", name)
            retries = self.arguments.retry_failed and is_worked_on
            stage = self.stages[name] = Stage(self.folder, name, shard, retries=retries)
            jobs: dict[str, Job] = getattr(self, f"_{name}")()
            if is_worked_on:
                self.cast[name]  # made before many threads ask for it
                _tell_unused(stage, jobs)
                stage.work(jobs, self.arguments.num_workers)
            elif missing := sum(key not in stage.lines for key in jobs):
                raise ConfigError(f"{missing} of {len(jobs)} lines of {name} are missing: finish --stage {name}")
            if name == self.arguments.stage:
                break

    def profiles(self) -> dict[str, Profile]:
        """Of each picture that has one, mended ones included."""

        def make() -> dict[str, Profile]:
            keys = {self._key("extract", picture): picture for picture in self.pool.pictures}
            return {keys[key]: profile for key, profile in self.stages["extract"].values(keys, Profile.from_json)}

        return self._once("profiles", ("extract",), make)

    def pairs(self) -> dict[str, tuple[str, str]]:
        """The pairs of pictures that are asked about, by the keys of their lines."""

        def make() -> dict[str, tuple[str, str]]:
            profiles = self.profiles()
            return {
                self._key("connect", a, b, profiles[a].to_json(), profiles[b].to_json()): (a, b)
                for a, b in candidates(profiles, self.arguments.num_candidates)
            }

        return self._once("pairs", ("extract",), make)

    def edges(self) -> dict[str, tuple[str, str, str]]:
        """The connected pairs with what they share, by the keys of their relations' lines."""
        pairs = self.pairs()
        shared = self.stages["connect"].values(pairs, lambda value: None if value is None else checked_text(value))
        found = [(*pairs[key], words) for key, words in shared if words]
        return {self._key("annotate", *edge): edge for edge in found}

    def relations(self) -> dict[tuple[str, str], tuple[str, Relation]]:
        """The things that related pairs share, and the relation of the first to the second."""
        edges = self.edges()
        related = self.stages["annotate"].values(edges, Relation.of)
        return {edges[key][:2]: (edges[key][2], relation) for key, relation in related if relation is not None}

    def albums(self) -> dict[str, Album]:
        """Paths through related pictures with others around them, by the keys of their questions' lines."""
        before = ("extract", "connect", "annotate")
        return self._once("albums", before, lambda: self._albums(self.relations(), self.profiles()))

    def _albums(
        self, relations: Mapping[tuple[str, str], tuple[str, Relation]], profiles: Mapping[str, Profile]
    ) -> dict[str, Album]:
        chosen, pictures = self.arguments, sorted(self.pool.pictures)
        neighbours: dict[str, set[str]] = defaultdict(set)
        for a, b in relations:
            neighbours[a].add(b)
            neighbours[b].add(a)
        albums = {}
        for path in sample_paths(
            list(relations), chosen.num_chains, chosen.num_images, seed=chosen.seed, max_uses=chosen.max_uses
        ):
            rng = rng_of(chosen.seed, path)
            shown = [*path, *strangers(path, pictures, neighbours, int(rng.choice(chosen.num_distractors)), rng)]
            album = tuple(shown[place] for place in rng.permutation(len(shown)))
            ends = [tuple(sorted(pair)) for pair in pairwise(path)]
            links = tuple(Link(album.index(a), album.index(b), *relations[a, b]) for a, b in ends)
            told = [[link.first, link.second, link.shared, link.relation.to_json()] for link in links]
            key = self._key("ask", album, told, [profiles[picture].to_json() for picture in path])
            albums[key] = Album(album, links)
        return albums

    def drafts(self) -> dict[str, tuple[Album, Draft]]:
        """Albums with their questions, mended ones included, by the keys of their checks' lines."""
        albums = self.albums()
        drafts = {}
        for key, album in albums.items():
            for _, draft in self.stages["ask"].values([key], partial(_draft_of, album=album)):
                drafts[self._key("look", album.pictures, self.stages["ask"].lines[key]["value"])] = album, draft
        return drafts

    def _extract(self) -> dict[str, Job]:
        def read(value: Any) -> Any:
            return (value if isinstance(value, Profile) else Profile.from_json(value)).to_json()

        return {self._key("extract", key): self._job("extract", [key], read, path)
                for key, path in self.pool.pictures.items()}  # fmt: skip

    def _connect(self) -> dict[str, Job]:
        def read(value: Any) -> str | None:
            return None if value is None else checked_text(value)

        profiles = self.profiles()
        return {key: self._job("connect", [a, b], read, profiles[a], profiles[b])
                for key, (a, b) in self.pairs().items()}  # fmt: skip

    def _annotate(self) -> dict[str, Job]:
        def job(a: str, b: str, shared: str) -> Job:
            def annotate(usage: Usage) -> Any:
                first, second = (open_image(self.pool.pictures[key]) for key in (a, b))
                play, most = self.cast["annotate"].annotate, self.arguments.max_asks
                there = asked(lambda: Relation.of(play(first, second, shared, usage)), most)
                back = asked(lambda: Relation.of(play(second, first, shared, usage)), most)
                if there is None and back is None:
                    return None
                if there is None or back is None or not there.agrees(back):
                    raise RoleError("the relation differs both ways")
                return there.to_json()

            return Job(self._about([a, b]), annotate)

        return {key: job(*edge) for key, edge in self.edges().items()}

    def _ask(self) -> dict[str, Job]:
        profiles = self.profiles()

        def job(album: Album) -> Job:
            def read(value: Any) -> Any:
                draft = Draft.of(value, album.links, len(album.pictures))
                return {"question": draft.question, "answer": draft.chain.answer, **draft.chain.metadata()}

            shown = {n: profiles[album.pictures[n]] for link in album.links for n in link.images}
            return self._job("ask", album.pictures, read, shown, album.links)

        return {key: job(album) for key, album in self.albums().items()}

    def _look(self) -> dict[str, Job]:
        def job(album: Album, draft: Draft) -> Job:
            def examine(usage: Usage) -> list[str]:
                images = {number: open_image(self.pool.pictures[key]) for number, key in enumerate(album.pictures)}

                def look(question: str, shown: Mapping[int, Image.Image]) -> str:
                    play = self.cast["look"].look
                    return asked(lambda: text_of_reply(play(question, shown, usage)), self.arguments.max_asks)

                return list(islice(problems(draft.question, draft.chain, images, look), 1))

            return Job(self._about(album.pictures), examine)

        return {key: job(*both) for key, both in self.drafts().items()}

    def _about(self, pictures: Sequence[str]) -> list[str]:
        return [str(self.pool.pictures[picture]) for picture in pictures]

    def _job(self, role: str, pictures: Sequence[str], read: Callable[[Any], Any], *shown: Any) -> Job:
        """A job that asks a role about what is shown; pictures are opened when it is its turn."""

        def job(usage: Usage) -> Any:
            opened = [open_image(one) if isinstance(one, Path) else one for one in shown]
            play = getattr(self.cast[role], role)
            return asked(lambda: read(play(*opened, usage)), self.arguments.max_asks)

        return Job(self._about(pictures), job)

    def _key(self, role: str, *shown: Any) -> str:
        """The key of a line. A line that an earlier version wrote keeps the key that it has."""
        key, former = (digest([role, words[role], *shown]) for words in (self.cast.words, self.cast.former_words))
        lines = self.stages[role].lines
        return former if former in lines and key not in lines else key

    def _once(self, name: str, before: Sequence[str], make: Callable[[], Value]) -> Value:
        """A value made of the lines of these stages, made anew only when there are more of them."""
        num_lines = [len(self.stages[stage].lines) for stage in before]
        if name not in self._made or self._made[name][0] != num_lines:
            self._made[name] = num_lines, make()
        return self._made[name][1]


def _tell_unused(stage: Stage, jobs: Mapping[str, Job]) -> None:
    """Prints how many lines of a stage this command does not use, if it has others to make."""
    unused, missing = stage.lines.keys() - jobs.keys(), jobs.keys() - stage.lines.keys()
    if unused and missing:
        print(
            f"{stage.name}: {len(unused)} lines are kept but not used, {len(missing)} are to be made. The lines are of "
            "another model, prompt, temperature or picture, or follow from a line that was mended since"
        )


def _draft_of(value: Any, album: Album) -> Draft:
    """The draft of a line.

    Raises:
        RoleError: for a line that was mended into something else.
    """
    try:
        columns = [list_of_reply(value[name]) for name in KEYS]
        steps = tuple(
            Step(text_of_reply(question), tuple(list_of_reply(focus)), text_of_reply(answer))
            for question, focus, answer in zip(*columns, strict=True)
        )
        draft = Draft(checked_text(value["question"]), Chain(steps, text_of_reply(value["answer"])))
    except (KeyError, TypeError, ValueError) as error:
        raise RoleError(f"it is no chain of question, answer, {', '.join(KEYS)} ({error})") from None
    if problem := problem_of(draft.chain, len(album.pictures)):
        raise RoleError(problem)
    return draft
