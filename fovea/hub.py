"""Names that lead to files here, or to the hub."""

from __future__ import annotations

from pathlib import Path


def leads_to_a_file(name: str) -> bool:
    """Returns True for a path, relative or absolute, that is no `owner/name` of the hub."""
    path = Path(name)
    is_below = len(path.parts) > 2 or (len(path.parts) == 2 and Path(path.parts[0]).is_dir())
    return path.is_absolute() or name.startswith((".", "~")) or is_below
