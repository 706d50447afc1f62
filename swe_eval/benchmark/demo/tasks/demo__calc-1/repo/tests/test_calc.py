import pytest

from calc import evaluate


def test_addition():
    assert evaluate("3 4 +") == 7


def test_nested():
    assert evaluate("3 4 + 2 *") == 14


def test_leftover_operand():
    with pytest.raises(ValueError):
        evaluate("1 2")
