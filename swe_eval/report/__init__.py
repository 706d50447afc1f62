"""What a run found. Each part is made of the ones above it:

- ``results.py`` reads a run's files as verdicts and writes the official formats. ``turns.py`` and ``integrity/`` read
  trajectories; ``trials.py`` keeps the verdicts in a table, so that a sweep is read in seconds.
- ``runs.py`` finds and reads runs; ``subject.py``: what a report is about; ``shards.py``: which arms of several runs
  are the same arm.
- ``rows.py``: the rates of an adapter. ``comparison.py``: adapter against adapter. Both compute with ``statistics/``.
- ``numbers.py``: how numbers are written. ``answer.py`` says what was found in sentences, ``tables.py`` on a terminal,
  ``page/`` in a browser, ``curve.py`` in a figure. ``clean.py`` adds the score without what was flagged, ``load.py``
  and ``throughput.py`` how the server was used.
- ``report.py``: all of that at the end of a run. ``__main__.py``: the same again from the files; ``outputs.py`` has
  what else can be made of them: ``trajectories/`` side by side, ``export/`` for other tools.
"""
