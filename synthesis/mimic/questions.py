"""Questions of the four tasks of MIMIC: several templates each, none of which inflects a class name."""

from __future__ import annotations

from collections.abc import Sequence

COUNTING = (
    "How many instances of {kinds} are there in all images together? Answer with a number.",
    "Count every {either} in these images. What is the total, as a number?",
    "What is the total number of objects of class {kinds} over all images? Give one number.",
)
LISTING = (
    'Which classes of the category "{category}" appear in these images? List them, separated by commas.',
    'List every class of the category "{category}" that at least one of the images shows, separated by commas.',
)
COMMON = (
    "Which class of object appears in every one of these images? Answer with its name.",
    "One class of object is in all of the images. Name it.",
)
ODD = (
    "Which class of object appears in only a minority of these images? Answer with its name.",
    "Most of these images show the same class of object, a few show another one instead. Name the class of the few.",
)
COUNT_IN_ONE = "How many instances of {kinds} are there in image {number}?"
LIST_OF_ONE = 'Which classes of the category "{category}" does image {number} show?'


def listed(names: Sequence[str], last: str = "and") -> str:
    """Names in quotes, as a list.

    >>> listed(["dog", "cat", "cup"])
    '"dog", "cat" and "cup"'
    """
    quoted = [f'"{name}"' for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {last} {quoted[-1]}"
