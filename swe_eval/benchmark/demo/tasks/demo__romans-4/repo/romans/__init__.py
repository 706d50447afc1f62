"""Roman numerals."""

VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}


def from_roman(numeral):
    """The number that a Roman numeral stands for."""
    values = [VALUES[letter] for letter in numeral]
    total = 0
    for value, following in zip(values, values[1:] + [0]):
        if value <= following:
            total -= value
        else:
            total += value
    return total
