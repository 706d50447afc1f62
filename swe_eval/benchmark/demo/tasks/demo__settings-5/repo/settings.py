"""Reads files of `key = value` lines."""


def parse(text):
    """The settings in the text; empty lines and # comments are skipped."""
    settings = {}
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, value = line.split("=")
        settings[key.strip()] = value.strip()
    return settings
