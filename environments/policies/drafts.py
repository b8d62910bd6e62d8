"""Guesses of what a turn writes next, for rollouts repeat themselves: the protocol, names of tools, set phrases.

A guess changes no token. The network reads guessed tokens beside the last chosen one, in one forward. Each next token
is chosen as it would be alone, and what was read behind the first that differs from its guess is dropped. This is
speculative decoding (Leviathan et al., arXiv 2211.17192) with a draft looked up in earlier text (prompt lookup
decoding, Saxena 2023). Tokens are drawn from the model's own probabilities and then compared with the guess, so that
no draw has to be corrected for.
"""

from __future__ import annotations

from collections.abc import Sequence

CONTEXT = 4
"""Tokens by which the next one is looked up."""
MOST = 16
"""Tokens of a guess."""
SURE = 2
"""Times in a row that a token has followed before it is guessed."""
REMEMBERED = 50_000
"""Contexts, of about 250 bytes each; all are forgotten when there are more."""


class Drafts:
    """Guesses of the next tokens: tokens that followed each run of `CONTEXT` tokens recently.

    >>> drafts = Drafts()
    >>> for last in (7, 8, 9):
    ...     drafts.learn([1, 2, 3, 4, 5, 6, last], num_written=3)
    >>> drafts.after([0, 1, 2, 3, 4], most=10)
    [5, 6]
    """

    def __init__(self) -> None:
        self._following: dict[tuple[int, ...], tuple[int, int]] = {}

    def learn(self, ids: Sequence[int], num_written: int) -> None:
        """Remembers the last `num_written` of these tokens, each by those before it."""
        if len(self._following) > REMEMBERED:
            self._following.clear()
        for place in range(max(CONTEXT, len(ids) - num_written), len(ids)):
            context, token = tuple(ids[place - CONTEXT : place]), ids[place]
            known, times = self._following.get(context, (token, 0))
            self._following[context] = (token, times + 1 if token == known else 1)

    def after(self, ids: Sequence[int], most: int) -> list[int]:
        """The tokens that are guessed to follow, at most `most`."""
        guessed: list[int] = []
        context = tuple(ids[-CONTEXT:])
        while len(guessed) < most:
            token, times = self._following.get(context, (0, 0))
            if times < SURE:
                break
            guessed.append(token)
            context = (*context[1:], token)
        return guessed
