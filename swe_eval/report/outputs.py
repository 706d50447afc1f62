"""The other options of ``swe_eval.report``: trajectories side by side, as files or served, and exports."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from swe_eval import command
from swe_eval.errors import UserError
from swe_eval.report.runs import SavedRun, find_runs, read_all, read_run
from swe_eval.report.trials import read_trials

FORMATS = ("csv", "parquet", "leaderboard")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to the command line of ``swe_eval.report``."""
    parser.add_argument(
        "--serve", action="store_true", help="show trajectories side by side, in this machine's browser"
    )
    parser.add_argument("--port", type=int, default=0, help="port of --serve (default: a free one)")
    parser.add_argument("--trajectories", action="store_true", help="the same as files: RUN/trajectories.html")
    parser.add_argument("--export", choices=FORMATS, help="write the trials as a table, or a leaderboard submission")
    parser.add_argument("--to", type=Path, metavar="DIR", help="directory that the export is written to")


def check(given: argparse.Namespace) -> None:
    """Refuse options that would have no effect, or cannot work.

    Raises:
        UserError: an option lacks the one it belongs to, a port is out of range, or a file is where a directory should
            be.
    """
    if given.to and not given.export:
        raise UserError(f"--to {given.to}: is where an export goes; write --export {'|'.join(FORMATS)} too")
    if given.port and not given.serve:
        raise UserError(f"--port {given.port}: is of --serve; write --serve too")
    if not 0 <= given.port <= 65_535:
        raise UserError(f"--port {given.port}: no port; write one up to 65535, or leave it out for a free one")
    other = next((f"--{name}" for name in ("export", "serve") if getattr(given, name)), None)
    for name in ("reference", "out", "follow"):
        if other and getattr(given, name) is not None:
            raise UserError(f"--{name}: is of the report, which {other} does not make; leave one of them out")
    for option, folder in (("--out", given.out), ("--to", given.to)):
        if folder:
            check_place(folder, f"write another {option} DIR")


def check_place(folder: Path, instead: str) -> None:
    """Make sure that a directory can be written to, or made.

    Args:
        folder: the directory.
        instead: what to write instead, with which the message ends.

    Raises:
        UserError: it cannot.
    """
    there = next(path for path in (folder, *folder.parents) if os.path.exists(path))  # where Path.exists raises
    if not there.is_dir():
        raise UserError(f"{folder}: {there} is a file; {instead}")
    try:
        with TemporaryDirectory(dir=there) as tried:
            (tried / folder.relative_to(there)).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: {there} cannot be written to ({error.strerror}); {instead}") from None


def make(given: argparse.Namespace) -> int:
    """Export the runs, or serve the trajectories of one.

    Raises:
        UserError: too many runs for it, or nowhere to write to.
    """
    if given.export:
        _export(given.export, given.to, given.runs)
    if given.serve:
        from swe_eval.report.trajectories.server import serve
        from swe_eval.report.trajectories.write import shown_of

        saved = _one("--serve", given.runs)
        serve(shown_of(saved), read_trials(saved.run, saved.record, saved.trials) or (), given.port)
    return command.OK


def write_trajectories(folders: Sequence[Path]) -> None:
    """Write ``trajectories.html`` and its data into the run's directory.

    Raises:
        UserError: there is more than one run, or none.
    """
    from swe_eval.report.trajectories.write import shown_of, write_trajectories

    saved = _one("--trajectories", folders)
    check_place(saved.run.root, "--serve shows the same without files")
    print(f"Trajectories side by side: {write_trajectories(shown_of(saved), saved.arms)}")


def _export(kind: str, folder: Path | None, folders: Sequence[Path]) -> None:
    if folder is None:
        raise UserError(f"--export {kind}: nowhere to write to; write --to DIR")
    runs, left_out = read_all({each: find_runs(each) for each in folders})
    for line in left_out:
        print(line, file=sys.stderr)
    if kind == "leaderboard":
        from swe_eval.report.export.leaderboard import write_leaderboard

        if twice := [
            name for name, times in Counter(arm.name for saved in runs for arm in saved.arms).items() if times > 1
        ]:
            raise UserError(f"--export {kind}: {twice[0]} is in several of the runs; export each --to a DIR of its own")
        written = [path for saved in runs for path in write_leaderboard(saved, folder)]
    else:
        from swe_eval.report.export.table import write_csv, write_parquet

        written = [(write_csv if kind == "csv" else write_parquet)(runs, folder)]
    for path in written:
        print(path)


def _one(option: str, folders: Sequence[Path]) -> SavedRun:
    if len(folders) > 1:
        raise UserError(f"{option}: shows one run; name one of the {len(folders)}")
    first, *_ = find_runs(folders[0])
    if first != folders[0]:
        raise UserError(f"{option}: shows one run; name one of those below {folders[0]}, such as {first}")
    return read_run(first)
