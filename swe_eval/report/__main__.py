"""``python -m swe_eval.report RUN``: its tables and results again; of several runs: every arm against the first."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from swe_eval import command
from swe_eval.errors import UserError
from swe_eval.report import outputs
from swe_eval.report.report import Kept, compare_runs, conclude, read_run


def main() -> None:
    """Console entry point."""
    given = parser().parse_args()
    sys.exit(command.exit_code(lambda: outputs.make(given) if outputs.is_asked_for(given) else _report(given.runs)))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m swe_eval.report", description=__doc__)
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory: outputs/<name>")
    outputs.add_arguments(made)
    return made


def _report(folders: Sequence[Path]) -> int:
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise UserError("a run is given twice; name each once")
    runs = [read_run(folder) for folder in folders]
    owed = _again(*runs) if len(runs) == 1 else compare_runs(runs)
    return command.FAILED if owed else command.OK


def _again(kept: Kept) -> int:
    with kept.run.claimed(kept.identity):  # it writes: not beside a run at work
        return conclude(kept.run, kept.trials, kept.comparisons)


if __name__ == "__main__":
    main()
