import pytest

from dates import days_in_month


def test_ordinary_months():
    assert [days_in_month(2023, month) for month in (1, 2, 4, 12)] == [31, 28, 30, 31]


def test_leap_year():
    assert days_in_month(2024, 2) == 29


def test_no_such_month():
    with pytest.raises(ValueError):
        days_in_month(2024, 13)
