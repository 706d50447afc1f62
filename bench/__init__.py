"""Benchmarks. ``python -m bench.NAME`` runs one comparison in one go.

It prints a table for people and, as its last line, one JSON object of the same figures. Run it from the checkout, on a
machine that does nothing else. ``docs/benchmarks.md`` keeps the tables, each with its machine, date and commit.
"""
