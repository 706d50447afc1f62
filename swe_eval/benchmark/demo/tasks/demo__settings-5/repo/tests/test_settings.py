import pytest

from settings import parse


def test_keys_and_values():
    assert parse("name = demo\nsize=3") == {"name": "demo", "size": "3"}


def test_comments_and_empty_lines():
    assert parse("# a comment\n\nname = demo\n") == {"name": "demo"}


def test_line_without_separator():
    with pytest.raises(ValueError):
        parse("name")
