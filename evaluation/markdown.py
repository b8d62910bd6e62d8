"""Rows of Markdown tables, whatever the names of tasks and families hold."""

from __future__ import annotations

import re
from collections.abc import Iterable


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
