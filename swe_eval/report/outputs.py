"""What else becomes of a run: trajectories side by side, a server for them, exports."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from swe_eval import command
from swe_eval.errors import UserError
from swe_eval.report.runs import Kept, read_run
from swe_eval.report.trials import read_trials

FORMATS = ("csv", "parquet", "leaderboard")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options to the command line of ``swe_eval.report``."""
    parser.add_argument("--serve", action="store_true", help="show trajectories side by side, to this machine alone")
    parser.add_argument("--port", type=int, default=0, help="of --serve; a free one if left out")
    parser.add_argument("--trajectories", action="store_true", help="write the same as files: RUN/trajectories.html")
    parser.add_argument("--export", choices=FORMATS, help="write the run as others read it, in the directory --to")
    parser.add_argument("--to", type=Path, metavar="DIR", help="where an export goes")


def make(given: argparse.Namespace) -> int:
    """Export, or serve.

    Raises:
        UserError: too many runs for it, or nowhere to write to.
    """
    if given.export:
        _export(given.export, given.to, [read_run(folder) for folder in given.runs])
    if given.serve:
        from swe_eval.report.trajectories.server import serve
        from swe_eval.report.trajectories.write import shown_of

        kept = _one("--serve", given.runs)
        serve(shown_of(kept), read_trials(kept.run, kept.record, kept.trials) or (), given.port)
    return command.OK


def write_trajectories(folders: Sequence[Path]) -> None:
    """Write ``trajectories.html`` and its data into the run's directory.

    Raises:
        UserError: there is more than one run.
    """
    from swe_eval.report.trajectories.write import shown_of, write_trajectories

    kept = _one("--trajectories", folders)
    print(f"Trajectories side by side: {write_trajectories(shown_of(kept), kept.arms)}")


def _export(kind: str, folder: Path | None, runs: Sequence[Kept]) -> None:
    if folder is None:
        raise UserError(f"--export {kind}: nowhere to write to; write --to DIR")
    if kind == "leaderboard":
        from swe_eval.report.export.leaderboard import write_leaderboard

        written = [path for kept in runs for path in write_leaderboard(kept, folder)]
    else:
        from swe_eval.report.export.table import write_csv, write_parquet

        written = [(write_csv if kind == "csv" else write_parquet)(runs, folder)]
    for path in written:
        print(path)


def _one(option: str, folders: Sequence[Path]) -> Kept:
    if len(folders) > 1:
        raise UserError(f"{option}: shows one run; name one of the {len(folders)}")
    return read_run(folders[0])
