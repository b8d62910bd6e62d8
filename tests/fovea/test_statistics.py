import numpy as np
import pytest

from fovea.statistics import crossed_interval, mcnemar, paired_bootstrap, paired_interval, sign_flip, wilson_interval


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


def covered(intervals, truth):
    """The share of intervals that hold the truth."""
    return float(np.mean([low <= truth <= high for low, high in intervals]))


@pytest.mark.parametrize("total", [100, 600])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.538, 0.9])
def test_the_interval_of_an_accuracy_covers_at_its_nominal_rate(total, share):
    draws = np.random.default_rng(0).binomial(total, share, size=20_000)
    assert 0.93 <= covered([wilson_interval(int(draw), total) for draw in draws], share) <= 0.97


@pytest.mark.parametrize(
    ("total", "lost", "gained"),
    [(100, 0.1, 0.3), (600, 0.13, 0.38), (600, 0.1, 0.1), (100, 0.05, 0.1), (600, 0.01, 0.02)],
)
def test_the_interval_of_paired_verdicts_covers_at_its_nominal_rate(total, lost, gained):
    draws = np.random.default_rng(0).multinomial(total, [lost, gained, 1 - lost - gained], size=20_000)
    assert 0.93 <= covered([paired_interval(a, b, total) for a, b, _ in draws.tolist()], gained - lost) <= 0.97


@pytest.mark.parametrize(
    ("total", "lost", "gained"),
    [(100, 0.0, 0.02), (100, 0.01, 0.02), (100, 0.02, 0.04), (24, 0.0, 0.1), (24, 0.1, 0.3)],
)
def test_where_hardly_a_pair_differs_it_covers_no_less(total, lost, gained):
    draws = np.random.default_rng(0).multinomial(total, [lost, gained, 1 - lost - gained], size=20_000)
    assert covered([paired_interval(a, b, total) for a, b, _ in draws.tolist()], gained - lost) >= 0.93
    low, high = paired_interval(0, 0, total)
    assert low < 0 < high


@pytest.mark.parametrize("total", [100, pytest.param(600, marks=pytest.mark.slow)])
def test_the_interval_of_paired_scores_covers_at_its_nominal_rate(total):
    rng = np.random.default_rng(0)
    trials = [rng.beta(2, 3, size=total) - rng.beta(2, 4, size=total) for _ in range(2000)]
    found = [paired_bootstrap(trial, seed=seed, num_samples=1000) for seed, trial in enumerate(trials)]
    assert 0.93 <= covered(found, 2 / 5 - 2 / 6) <= 0.97


@pytest.mark.parametrize("gain", [-1, 0, 1])
def test_seeds_that_all_agree_leave_an_interval(gain):
    before = np.full((2, 30), float(gain < 0))
    low, high, p_value = crossed_interval(before, before + gain)
    assert low < high and low <= gain <= high + 0.1 and 0 < p_value <= 1


def test_the_permutation_test_weighs_how_much_each_pair_differs():
    differences = np.array([-1.0] * 20 + [0.125] * 40)
    assert sign_flip(differences) < 0.01 and differences.sum() < 0
    assert sign_flip(np.zeros(5)) == 1.0
    even = np.random.default_rng(0)
    p_values = [sign_flip(even.normal(size=40), seed=n, num_samples=400) for n in range(400)]
    assert 0.02 <= np.mean(np.array(p_values) < 0.05) <= 0.08


@pytest.mark.parametrize("num_seeds", [3, 5])
@pytest.mark.parametrize("spread", [0.1, 0.2, 0.5])
def test_the_interval_over_questions_and_seeds_covers_at_its_nominal_rate(num_seeds, spread):
    rng = np.random.default_rng(0)

    def answers(questions, gain):
        logits = questions + gain + rng.normal(0, spread, size=(num_seeds, 1))
        return (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)

    many = rng.normal(0, 1.5, 400_000) + rng.normal(0, spread, 400_000)
    truth = float(np.mean(1 / (1 + np.exp(-many - 0.5))) - np.mean(1 / (1 + np.exp(-many))))
    found = []
    for _ in range(2000):
        questions = rng.normal(0, 1.5, size=(1, 300))
        found.append(crossed_interval(answers(questions, 0.0), answers(questions, 0.5))[:2])
    assert 0.93 <= covered(found, truth) <= 0.97
