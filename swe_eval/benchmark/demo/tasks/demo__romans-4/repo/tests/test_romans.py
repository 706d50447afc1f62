import pytest

from romans import from_roman


@pytest.mark.parametrize(("numeral", "number"), [("V", 5), ("XVI", 16), ("IV", 4), ("XC", 90)])
def test_different_letters(numeral, number):
    assert from_roman(numeral) == number


def test_unknown_letter():
    with pytest.raises(KeyError):
        from_roman("XQ")
