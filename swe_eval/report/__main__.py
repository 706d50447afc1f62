"""``python -m swe_eval.report RUN...``: tables, page and results again; several runs compared; a sweep as one curve."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from swe_eval import command
from swe_eval.errors import InUse, UserError
from swe_eval.report import outputs
from swe_eval.report.comparison import find
from swe_eval.report.report import conclude, show, write_report
from swe_eval.report.results import Seen
from swe_eval.report.runs import NotBegun, SavedRun
from swe_eval.report.subject import Subject, subject_of
from swe_eval.report.tables import screen

DESCRIPTION = """Make the report of a run again, compare the arms of several runs, or show a sweep as one curve. Runs
may still be at work."""
DAY = 86_400.0
"""In seconds."""
OWN = "the run's own command"


def main() -> None:
    """Console entry point."""
    given = parser().parse_args()
    sys.exit(command.exit_code(lambda: _do(given)))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = command.Arguments(prog="python -m swe_eval.report", description=DESCRIPTION)
    made.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="outputs/<name>, or a sweep: multirun_outputs/<name>"
    )
    made.add_argument("--reference", metavar="ARM", help="compare with this arm (default: the first; in a sweep, base)")
    made.add_argument("--out", type=Path, metavar="DIR", help="where to write the report (default: beside the runs)")
    made.add_argument(
        "--follow", type=float, metavar="SECONDS", help="repeat every so many seconds, until nothing is owed"
    )
    outputs.add_arguments(made)
    return made


def _do(given: argparse.Namespace) -> int:
    if given.follow is not None and not 0 < given.follow <= DAY:
        raise UserError(f"--follow {given.follow:g}: write seconds, such as 60")
    outputs.check(given)
    if given.trajectories:
        outputs.write_trajectories(given.runs)  # first: the report leads there
    if given.export or given.serve:
        return outputs.make(given)
    return _follow(given) if given.follow else _report(given)


def _report(given: argparse.Namespace) -> int:
    subject = subject_of(given.runs, given.reference, given.out)
    outputs.check_place(subject.folder, "write --out DIR")
    if subject.kind == "run" and not given.reference and not given.out:
        return command.FAILED if _again(subject.runs[0], subject) else command.OK
    return _show(subject)


def _again(saved: SavedRun, subject: Subject) -> int:
    """Make everything anew from the run's files; of a run that is still at work, only the report."""
    try:
        with saved.run.claimed(saved.identity):
            return conclude(saved.run, saved.trials, saved.comparisons, OWN)
    except InUse:
        print("The run is at work; this is what there is so far.")
        _show(subject)
        return subject.owed


def _show(subject: Subject, refresh: float | None = None) -> int:
    findings = find(subject.arms, subject.comparisons)
    write_report(subject, findings, None if subject.is_whole else refresh)
    show(screen(), subject, findings, OWN)
    print(f"The report is {subject.folder / 'report.html'}")
    return command.OK if subject.is_whole else command.FAILED


def _follow(given: argparse.Namespace) -> int:
    seen: Seen = {}
    while True:
        try:
            subject = subject_of(given.runs, given.reference, given.out, seen)
            outputs.check_place(subject.folder, "write --out DIR")
            if not _show(subject, given.follow):
                return command.OK
        except NotBegun as error:
            print(error, flush=True)
        time.sleep(given.follow)


if __name__ == "__main__":
    main()
