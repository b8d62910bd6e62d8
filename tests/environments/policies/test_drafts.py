"""Guesses of the next tokens, from tokens that followed before."""

import pytest

from environments.policies.drafts import CONTEXT, SURE, Drafts

PHRASE = list(range(10, 20))


def taught(*texts: list[int]) -> Drafts:
    drafts = Drafts()
    for text in texts:
        drafts.learn(text, num_written=len(text) - CONTEXT)
    return drafts


def test_a_phrase_that_was_always_the_same_is_guessed_to_its_end():
    assert taught(*[PHRASE] * SURE).after(PHRASE[:CONTEXT], most=100) == PHRASE[CONTEXT:]
    assert taught(*[PHRASE] * SURE).after(PHRASE[:CONTEXT], most=2) == PHRASE[CONTEXT : CONTEXT + 2]


@pytest.mark.parametrize("num_seen", range(SURE))
def test_what_was_seen_too_seldom_is_not_guessed(num_seen):
    assert taught(*[PHRASE] * num_seen).after(PHRASE[:CONTEXT], most=100) == []


def test_a_guess_ends_where_texts_differ():
    drafts = taught(*[[*PHRASE, last, 50] for last in (90, 91, 92)])
    assert drafts.after(PHRASE[:CONTEXT], most=100) == PHRASE[CONTEXT:]


def test_what_changes_is_learned_anew():
    changed = [*PHRASE[:CONTEXT], 77]
    drafts = taught(PHRASE, PHRASE, changed)
    assert drafts.after(PHRASE[:CONTEXT], most=100) == []
    drafts.learn(changed, num_written=1)
    assert drafts.after(PHRASE[:CONTEXT], most=1) == [77]


def test_the_prompt_is_not_learned():
    """Its image placeholders would be guessed."""
    drafts = Drafts()
    for _ in range(SURE):
        drafts.learn(PHRASE, num_written=2)
    assert drafts.after(PHRASE[:CONTEXT], most=100) == []
    assert drafts.after(PHRASE[: len(PHRASE) - 2], most=100) == PHRASE[-2:]


@pytest.mark.parametrize("ids", [[], [10], PHRASE[: CONTEXT - 1]])
def test_short_texts_are_followed_by_nothing(ids):
    drafts = taught(*[PHRASE] * SURE)
    drafts.learn(ids, num_written=len(ids))
    assert drafts.after(ids, most=5) == []


def test_memory_is_bounded(monkeypatch):
    monkeypatch.setattr("environments.policies.drafts.REMEMBERED", 20)
    drafts = Drafts()
    for start in range(0, 10_000, 10):
        drafts.learn(list(range(start, start + 10)), num_written=10)
    assert len(drafts._following) < 40
