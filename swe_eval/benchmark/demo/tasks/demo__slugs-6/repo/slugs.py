"""Readable URL parts from titles."""

import re
import unicodedata


def without_accents(text):
    """The text in ASCII; what ASCII cannot write is dropped."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def slugify(title, max_length=None):
    """The title in lower case, its words joined by hyphens."""
    slug = re.sub("[^a-z0-9]+", "-", without_accents(title).lower())
    return slug[:max_length]
