"""Benchmarks: ``python -m bench.NAME``, from the checkout, on a machine that does nothing else.

Each prints a table for people and, as its last line, the same figures as one JSON object. ``docs/benchmarks.md`` keeps
the tables, each with its machine, date and commit.
"""
