"""Small calendar sums."""

LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def is_leap(year):
    """Whether February has 29 days in that year."""
    return year % 4 == 0


def days_in_month(year, month):
    """The number of days of a month; January is 1."""
    if not 1 <= month <= 12:
        raise ValueError(f"no such month: {month}")
    return LENGTHS[month - 1] + (month == 2 and is_leap(year))
