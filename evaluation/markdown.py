"""Rows of Markdown tables, whatever the names of tasks and families hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from fovea.tasks import NO_FAMILY

_Part = TypeVar("_Part")


def in_all_and_by_family(total: _Part, families: Mapping[str, _Part]) -> dict[str, _Part]:
    """Rows of a table by name: the total, then each family, if there are any.

    Version 0.1 stored questions without a family as "all", the name of the total.

    >>> in_all_and_by_family(10, {"all": 4, "read": 6})
    {'all': 10, 'no family': 4, 'read': 6}
    >>> in_all_and_by_family(4, {"no family": 4})
    {'all': 4}
    """
    named = {NO_FAMILY if name == "all" else name: part for name, part in families.items()}
    return {"all": total} | ({} if set(named) <= {NO_FAMILY} else named)


def encodable(text: str) -> str:
    """The text with `?` in place of what cannot be written to a file, such as half surrogates."""
    return text.encode(errors="replace").decode()


def markdown_row(cells: Iterable[object]) -> str:
    r"""A row of a table, of one line.

    >>> markdown_row(["read | small", "", 3])
    '| read \\| small | | 3 |'
    """
    texts = (" ".join(encodable(str(cell)).split()).replace("|", "\\|") for cell in cells)
    return f"|{''.join(f' {text} |' if text else ' |' for text in texts)}"


def cells_of(row: str) -> list[str]:
    r"""The cells of a row that `markdown_row` made.

    >>> cells_of("| read \\| small | | 3 |")
    ['read | small', '', '3']
    """
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", row.strip())[1:-1]]
