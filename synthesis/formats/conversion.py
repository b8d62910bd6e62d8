"""The result of a conversion, in words."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import takewhile

from synthesis.formats.wording import Changes


@dataclass
class Conversion:
    """The result of converting the traces of a file."""

    formats: Counter[str] = field(default_factory=Counter)
    evidence: dict[str, str] = field(default_factory=dict)
    num_written: int = 0
    dropped: dict[int, str] = field(default_factory=dict)
    """The reason that a trace was dropped, by its number in the file."""
    changes: Changes = field(default_factory=Changes)
    tail: str | None = None
    """With what all questions end, as far as they do."""

    def keep_tail(self, question: str) -> None:
        """Takes a question into account."""
        if self.tail is None:
            self.tail = question
        alike = takewhile(lambda pair: pair[0] == pair[1], zip(reversed(self.tail), reversed(question), strict=False))
        self.tail = "".join(letter for letter, _ in alike)[::-1]

    def table(self) -> str:
        """The summary, for people."""
        total = self.num_written + len(self.dropped)
        told = ", ".join(f"{count} {name}" for name, count in self.formats.most_common())
        lines = [f"\n{self.num_written} of {total} traces were converted (told by content: {told or 'none'})"]
        lines += [f"{name}: {words}" for name, words in self.evidence.items()]
        kinds: dict[str, list[int]] = {}
        for number, reason in self.dropped.items():
            kinds.setdefault(_kind(reason), []).append(number)
        for numbers in sorted(kinds.values(), key=len, reverse=True):
            lines.append(f"dropped {len(numbers)}: {self.dropped[numbers[0]][:200]} (trace {numbers[0]})")
        if any("There is no such tool" in reason for reason in self.dropped.values()):
            lines.append("  a zoom tool of another name: give it with --zoom_tools")
        for what, count in self.changes.counts.most_common():
            lines.append(f"{count} {what}")
            if what in self.changes.examples:
                before, after = (_line(text) for text in self.changes.examples[what])
                lines.append(f"  {before}\n  -> {after}")
        if self.num_written > 4 and self.tail and len(self.tail.strip()) > 24:
            lines.append(f"all questions end with {self.tail[-200:]!r}: --strip takes it out if it is an instruction")
        return "\n".join(lines)


def _line(text: str) -> str:
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= 160 else f"{text[:100]} … {text[-50:]}"


def _kind(reason: str) -> str:
    """A reason without what differs from trace to trace: paths, numbers and quoted words."""
    return re.sub(r"\S*/\S*|\d+|'[^']*'", "…", reason.partition(":")[0])
