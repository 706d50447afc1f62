"""What a run found. In the order in which each part is made of those above it:

- ``results.py``: a run's files as verdicts, and the official formats; ``turns.py``, ``integrity/`` read trajectories,
  ``trials.py`` keeps the verdicts so that a sweep is read in seconds.
- ``runs.py``: which runs a report is about, and which of their arms are one arm.
- ``rows.py``: an adapter's rates; ``comparison.py``: adapter against adapter. The statistics are ``statistics/``'s.
- ``tables.py`` says it on the terminal, ``words.py`` in sentences, ``page/`` in a browser, ``curve.py`` in a figure;
  ``clean.py``, ``load.py`` and ``throughput.py`` add the flags, the server's load and its speed.
- ``report.py``: all of that at the end of a run. ``__main__.py``: again from the files, and what else becomes of a run
  (``outputs.py``): ``trajectories/`` side by side, ``export/`` for other tools.
"""
