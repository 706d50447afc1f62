from slugs import slugify


def test_words():
    assert slugify("Ten small tasks") == "ten-small-tasks"


def test_accents():
    assert slugify("Crème brûlée") == "creme-brulee"


def test_max_length():
    assert slugify("Ten small tasks", max_length=7) == "ten-sma"
