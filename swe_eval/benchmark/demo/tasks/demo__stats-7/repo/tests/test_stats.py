import pytest

from stats import moving_average, spread


def test_spread():
    assert spread([3, 9, 4]) == 6


def test_window_longer_than_series():
    assert moving_average([1, 2], 3) == []


def test_window_must_be_positive():
    with pytest.raises(ValueError):
        moving_average([1, 2], 0)
