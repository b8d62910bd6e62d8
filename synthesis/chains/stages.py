"""The stages of the chain builder: each a file of lines that can be read, mended by hand, and gone on with.

A line is {"key", "about", "value" or "failed", "requests", "tokens", "prompt_tokens"}. Its key is a hash of what the
role was shown: a line that was mended is used as it stands, and what follows from it is made anew. Several processes
may work in one folder, each on a shard of the keys and in a file of its own.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from fovea.images import ImageError
from fovea.jsonl import cut_torn_line, read_jsonl
from fovea.server import RefusedRequest
from synthesis.agent.roles import RoleError, Usage
from synthesis.side_by_side import side_by_side

Value = TypeVar("Value")


@dataclass(frozen=True)
class Shard:
    """The part of the keys that a process works on: the nth of so many."""

    number: int = 0
    count: int = 1

    def holds(self, key: str) -> bool:
        return int(key[:8], 16) % self.count == self.number

    @property
    def suffix(self) -> str:
        return "" if self.count == 1 else f"-{self.number}-of-{self.count}"


@dataclass(frozen=True)
class Job:
    """A function that makes the value of a line, and a description of the line for readers of the file."""

    about: Any
    do: Callable[[Usage], Any]


@dataclass
class Stage:
    """A stage's lines by key; `name` is that of its files."""

    folder: Path
    name: str
    shard: Shard = Shard()
    retries: bool = False
    """True if lines that failed are worked on again."""
    lines: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Reads what there is, also of other shards.

        Raises:
            ValueError: for a line that is none of this stage's.
        """
        cut_torn_line(self.path)
        for path in (self.folder / f"{self.name}.jsonl", *sorted(self.folder.glob(f"{self.name}-*-of-*.jsonl"))):
            for number, line in enumerate(read_jsonl(path), start=1):
                is_line = isinstance(line, Mapping) and isinstance(line.get("key"), str)
                if not is_line or ("value" in line) == ("failed" in line):
                    raise ValueError(f"{path} line {number} is {line!r:.80}: it must hold key, and value or failed")
                is_found = "value" in self.lines.get(line["key"], {})  # by a retry, in another file
                if "value" in line or not (self.retries or is_found):
                    self.lines[line["key"]] = dict(line)

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}{self.shard.suffix}.jsonl"

    def work(self, jobs: Mapping[str, Job], num_workers: int) -> None:
        """Does what is missing of these jobs, by key, and writes each line as it comes."""
        missing = [key for key in jobs if key not in self.lines and self.shard.holds(key)]
        total = sum(self.shard.holds(key) for key in jobs)
        with tqdm(total=total, initial=total - len(missing), desc=self.name) as bar, self.path.open("a") as file:
            for line in side_by_side(lambda key: _line(key, jobs[key]), missing, num_workers):
                file.write(json.dumps(line) + "\n")
                file.flush()
                self.lines[line["key"]] = line
                bar.update()

    def values(self, keys: Iterable[str], read: Callable[[Any], Value]) -> Iterator[tuple[str, Value]]:
        """The keys that came to something, with their values as `read` takes them.

        Raises:
            ValueError: for a value that was mended into something that is none, with its file and key.
        """
        for key in keys:
            line = self.lines.get(key, {})
            if "value" not in line:
                continue
            try:
                yield key, read(line["value"])
            except RoleError as error:
                raise ValueError(f"{self.name}.jsonl, the line of key {key}: {error}") from None

    def reasons(self, keys: Iterable[str]) -> Counter[str]:
        """Why keys failed; what a reply itself said is left out."""
        failed = (self.lines[key]["failed"] for key in keys if "failed" in self.lines.get(key, {}))
        return Counter(re.sub(r"^(['\"]).*?\1\s*|\W*$", "", text.partition(":")[0])[:80] for text in failed)

    def usage(self) -> Usage:
        """The costs of all lines."""
        total = Usage()
        for line in self.lines.values():
            for role, number in line.get("requests", {}).items():
                total.requests[role] = total.requests.get(role, 0) + number
                for name, counter in (("tokens", total.tokens), ("prompt_tokens", total.prompt_tokens)):
                    counter[role] = counter.get(role, 0) + line.get(name, {}).get(role, 0)
        return total


def _line(key: str, job: Job) -> dict[str, Any]:
    usage = Usage()
    try:
        outcome = {"value": job.do(usage)}
    except (RoleError, ImageError, RefusedRequest) as error:
        outcome = {"failed": str(error)[:300]}
    costs = {"requests": usage.requests, "tokens": usage.tokens, "prompt_tokens": usage.prompt_tokens}
    return {"key": key, "about": job.about, **outcome, **costs}
