"""Rejection sampling keeps right answers in good form, and nothing else."""

from synthesis.own_traces import successes


def test_only_right_and_well_formed_episodes_are_kept(make_episode):
    right, wrong, silent = make_episode("7"), make_episode("8"), make_episode(None)
    sloppy = make_episode("7", well_formed=False)
    assert successes([right, wrong, silent, sloppy]) == [right]
