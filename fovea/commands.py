"""Parsers of commands whose options are few."""

from __future__ import annotations

import argparse


def plain_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows its description as it is written, and takes no beginnings of options for options."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
