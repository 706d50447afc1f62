"""Sums over series of numbers."""

from statistics import mean


def moving_average(values, window):
    """The mean of each `window` neighbouring values."""
    if window < 1:
        raise ValueError("window must be positive")
    starts = range(len(values) - window)
    return [mean(values[start : start + window]) for start in starts]


def spread(values):
    """How far the largest value lies above the smallest."""
    return max(values) - min(values)
