"""Estimates: values by hand, intervals against theory, resampling of groups."""

import numpy as np
import pytest

from vqaudio.metrics.confidence import Estimate, bootstrap, mean, ratio


def test_a_ratio_is_of_the_sums() -> None:
    estimate = ratio([1, 0, 3], [2, 2, 4])
    assert estimate.value == 0.5 and estimate.count == 3
    assert 0 <= estimate.low < 0.5 < estimate.high <= 0.75


def test_the_interval_of_a_mean_is_that_of_theory() -> None:
    values = np.random.default_rng(1).normal(5, 2, size=400)
    estimate = mean(values)
    half = 1.96 * values.std() / 20  # the standard error of 400 values
    assert estimate.value == pytest.approx(values.mean())
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_equal_items_and_a_single_item_have_intervals_without_width() -> None:
    assert mean([0.3, 0.3, 0.3])[:3] == pytest.approx((0.3, 0.3, 0.3))
    assert mean([0.7]) == Estimate(0.7, 0.7, 0.7, 1)


def test_groups_are_drawn_whole() -> None:
    """Ten items of two speakers: between speakers lies all there is to differ."""
    values, speakers = [1.0] * 5 + [0.0] * 5, ["a"] * 5 + ["b"] * 5
    grouped = mean(values, speakers)
    assert grouped == Estimate(0.5, 0.0, 1.0, 2)
    assert mean(values).high < 1


def test_the_same_items_give_the_same_interval() -> None:
    values = np.random.default_rng(2).random(30)
    assert mean(values) == mean(values)


def test_nothing_to_divide_by_is_no_number() -> None:
    estimate = ratio([0, 0], [0, 0])
    assert np.isnan(estimate.value) and estimate.count == 2
    assert ratio([1, 0], [1, 0])[:3] == (1, 1, 1)  # resamples without the first item are left out


def test_any_statistic_of_weights() -> None:
    values = np.array([3.0, 1.0, 2.0])
    estimate = bootstrap(lambda weights: float(values[weights > 0].max()), 3)
    assert estimate.value == 3 and estimate.low == 1 and estimate.high == 3


@pytest.mark.parametrize(
    ("above", "below", "groups", "message"),
    [
        ([], [], None, "no items"),
        ([1], [1, 2], None, "two"),
        ([1, 2], [1, 2], ["a"], "1 groups"),
    ],
)
def test_what_cannot_be_estimated_is_refused(above, below, groups, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ratio(above, below, groups)
