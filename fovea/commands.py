"""Parsers of commands whose options are few."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from fovea.config import ConfigError


def plain_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows its description as it is written, and takes no beginnings of options for options."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )


def refuse_written(path: Path) -> None:
    """Raises ConfigError if a file is there that a command would write anew; pictures of the old one would stay."""
    if path.exists():
        raise ConfigError(f"{path} is there already: name another --output_dir, or delete it and its pictures first")


def finite(text: str) -> float:
    """A number, for options of `plain_parser` that weigh things.

    >>> finite("-0.5")
    -0.5

    Raises:
        argparse.ArgumentTypeError: for another text, infinity and what is no number.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r}: give a finite number")
    return number


def at_least_one(text: str) -> int:
    """A number from 1, for options of `plain_parser` that count things.

    >>> at_least_one("3")
    3

    Raises:
        argparse.ArgumentTypeError: for another.
    """
    return _whole(text, least=1)


def from_zero(text: str) -> int:
    """A number from 0, such as a seed, for options of `plain_parser`.

    >>> from_zero("0")
    0

    Raises:
        argparse.ArgumentTypeError: for another.
    """
    return _whole(text, least=0)


def _whole(text: str, *, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from {least}")
    return int(text)
