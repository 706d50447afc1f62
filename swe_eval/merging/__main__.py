"""``python -m swe_eval.merging merge --base DIR --adapter DIR``, and what is kept of it: ``list``, ``clean``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.filesize import decimal

from swe_eval import command
from swe_eval.errors import UserError
from swe_eval.merging import cache
from swe_eval.merging.checkpoint import find_checkpoint, open_checkpoint
from swe_eval.merging.making import merge

DESCRIPTION = "Make one checkpoint of a base model and a LoRA adapter, on disk and without a GPU."


def main() -> None:
    """Console entry point; exit code 2 and one line if something cannot be merged."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    args = parser().parse_args()
    if code := command.exit_code(lambda: args.run(args, console)):
        sys.exit(code)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main_parser = command.Arguments(prog="python -m swe_eval.merging", description=DESCRIPTION)
    commands = main_parser.add_subparsers(required=True, metavar="merge|list|clean")
    merging = commands.add_parser("merge", help="make one checkpoint of a base model and a LoRA adapter")
    merging.add_argument("--base", required=True, help="directory or hub id of the base model")
    merging.add_argument("--revision", help="hub revision of the base model")
    merging.add_argument("--adapter", required=True, type=Path, help="directory of the adapter")
    merging.add_argument("--out", type=Path, help="directory to make (default: one in the cache)")
    merging.set_defaults(run=_merge)
    commands.add_parser("list", help="show what is in the cache").set_defaults(run=_list)
    cleaning = commands.add_parser("clean", help="remove merged checkpoints from the cache")
    cleaning.add_argument("--days", type=float, default=0.0, help="only those unused for so many days (default: 0)")
    cleaning.set_defaults(run=_clean)
    return main_parser


def _merge(args: argparse.Namespace, console: Console) -> None:
    if args.out is None:
        cache.merged_checkpoint(args.base, args.adapter, console.print, args.revision)
    elif args.out.exists():
        raise UserError(f"--out {args.out}: is there already; write a new directory")
    else:
        merge(open_checkpoint(find_checkpoint(args.base, args.revision)), args.adapter, args.out, console.print)


def _list(args: argparse.Namespace, console: Console) -> None:
    for entry in cache.entries():
        used = f"{decimal(entry.nbytes)}, used {entry.days:.0f} days ago"
        console.print(f"{entry.directory}: {used}: {entry.base} + {entry.adapter}")


def _clean(args: argparse.Namespace, console: Console) -> None:
    if not args.days >= 0:
        raise UserError(f"--days {args.days:g}: write a number of days, 0 or more")
    for directory in cache.clean(args.days):
        console.print(f"removed {directory}")


if __name__ == "__main__":
    main()
