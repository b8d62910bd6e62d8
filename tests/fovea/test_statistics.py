import numpy as np
import pytest

from fovea.statistics import mcnemar, paired_bootstrap, wilson_interval


def test_wilson_interval_matches_a_known_value():
    assert wilson_interval(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-3)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_mcnemar_is_the_binomial_test_of_the_discordant_pairs():
    assert mcnemar(1, 9) == pytest.approx(0.021484375)
    assert mcnemar(0, 0) == 1.0


def test_the_bootstrap_is_seeded_and_holds_the_mean():
    differences = np.array([1.0] * 30 + [0.0] * 60 + [-1.0] * 10)
    low, high = paired_bootstrap(differences, seed=1)
    assert (low, high) == paired_bootstrap(differences, seed=1)
    assert low < 0.2 < high


def test_the_bootstrap_interval_covers_at_its_nominal_rate():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(400):
        low, high = paired_bootstrap(rng.choice([-1, 0, 1], p=[0.1, 0.6, 0.3], size=200), seed=trial, num_samples=1000)
        covered += low <= 0.2 <= high
    assert 0.92 <= covered / 400 <= 0.98
