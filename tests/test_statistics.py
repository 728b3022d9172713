"""The statistics are those of their sources."""

import numpy as np
import pytest
from scipy.stats import binom

from vitq.statistics import holm, mcnemar, over_seeds, spread, wilson


def test_mean_and_sample_deviation() -> None:
    assert spread([1.0]).deviation is None
    found = spread([1.0, 2.0, 6.0])
    assert (found.mean, found.count) == (3.0, 3) and found.deviation == pytest.approx(np.std([1, 2, 6], ddof=1))


def test_mcnemar_counts_discordant_images_and_gives_twice_the_tail_of_a_coin() -> None:
    mine, theirs = np.zeros(100, bool), np.zeros(100, bool)
    mine[:10], theirs[8:11] = True, True  # 8 are right here alone, 1 there alone
    found = mcnemar(mine, theirs)
    assert (found.better, found.worse) == (8, 1)
    assert found.p == pytest.approx(2 * binom.cdf(1, 9, 0.5))
    assert mcnemar(mine, mine).p == 1.0


def test_seeds_are_paired() -> None:
    assert over_seeds([1.0, 2.0], [0.0, 0.0]) is None
    differences = np.array([1.0, 1.2, 0.9])
    t = differences.mean() / (differences.std(ddof=1) / 3**0.5)
    assert t > 10 and 0 < (over_seeds([1.0, 6.2, 3.9], [0.0, 5.0, 3.0]) or 1) < 0.02
    assert over_seeds([1.0, 2.0, 3.0], [0.0, 1.0, 2.0]) == 0.0
    assert over_seeds([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 1.0


def test_holm_multiplies_the_smallest_by_their_number_and_keeps_the_order() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_wilson_is_the_interval_that_the_tables_have() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson(0, 20)[0] == 0.0 and wilson(20, 20)[1] == pytest.approx(1.0) and wilson(0, 0) == (0.0, 1.0)
