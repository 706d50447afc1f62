"""``python -m swe_eval.images pull|list|verify|prune``: the images of a benchmark, where a sandbox keeps them.

``pull`` gets all of a benchmark's ahead of a run, for nodes without a network. ``verify`` compares every file of the
image store with what was unpacked from layers of the right hash, and has what is damaged fetched again by the next
``pull``. ``prune`` removes what was not used for so many days.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Column, Table

from swe_eval import command
from swe_eval.errors import UserError
from swe_eval.sandbox.images import GB, Images, Library
from swe_eval.settings import Settings

DESCRIPTION = """Look after a benchmark's images. pull gets all of them, list shows those that are here, verify checks
the files of the image store, prune removes what was not used for long. Takes a run's arguments as well, such as
benchmark=verified sandbox=bubblewrap."""
DAY = 86400.0


def main() -> None:
    """Console entry point."""
    given, overrides = parser().parse_known_args()
    sys.argv[1:] = overrides
    command.run(lambda settings: _do(settings, given))


def parser() -> argparse.ArgumentParser:
    """Of what is not Hydra's."""
    made = command.Arguments(prog="python -m swe_eval.images", description=DESCRIPTION, allow_abbrev=False)
    made.add_argument("action", choices=["pull", "list", "verify", "prune"])
    made.add_argument("--days", type=float, default=30, help="of prune: unused for at least so long (default: 30)")
    return made


def _do(settings: Settings, given: argparse.Namespace) -> int:
    from swe_eval.sandbox.sandbox import connect

    if not given.days >= 0:
        raise UserError(f"--days {given.days:g}: write a number of days, 0 or more")
    images = connect(settings.sandbox, "images").images
    if images is None:
        raise UserError(f"sandbox={settings.sandbox.kind}: needs no images; write sandbox=auto, or another")
    if given.action == "pull":
        return _pull(settings, images)
    if given.action == "list":
        return _list(images.library)
    if given.action == "verify":
        return _verify(images.library)
    return _prune(images.library, given.days)


def _pull(settings: Settings, images: Images) -> int:
    from swe_eval.benchmark import instances

    wanted = instances.load(settings.benchmark).instances
    print(images.plan(wanted), flush=True)
    images.say = partial(print, flush=True)
    failed = 0
    for number, (image, why_not) in enumerate(images.get(wanted), 1):
        failed += bool(why_not)
        print(f"[{number}] {why_not or f'{image} {images.digests[image]}'}", flush=True)
    return command.FAILED if failed else command.OK


def _list(library: Library) -> int:
    table = Table(Column("image", overflow="fold"), "GB", "unused, days", Column("digest", overflow="fold"), box=SIMPLE)
    ages = library.ours()
    sizes = library.sizes([*ages])
    for image, age in ages.items():
        size = f"{sizes[image] / GB:.2f}" if image in sizes else "not whole"
        table.add_row(image, size, f"{age / DAY:.1f}", library.digest(image))
    Console(soft_wrap=True).print(table, f"{sum(sizes.values()) / GB:.1f} GB; {library.free() / GB:.0f} GB are free")
    return command.OK


def _verify(library: Library) -> int:
    from swe_eval.sandbox.store import Store

    if not isinstance(library, Store):
        raise UserError("verify: an engine looks after its own images; write sandbox=bubblewrap")
    damaged = {image: bad for image in library.ours() if (bad := library.verify(image))}
    for image, layers in damaged.items():
        used = [layer for layer in layers if not library.repair(layer)]
        next_step = "a run uses it: verify again when that is over" if used else "the next pull fetches them again"
        print(f"{image}: {len(layers)} layers are damaged or missing; {next_step}")
    print(f"{len(library.ours()) - len(damaged)} images are what they were when they came, {len(damaged)} are not")
    return command.FAILED if damaged else command.OK


def _prune(library: Library, days: float) -> int:
    old = [image for image, age in library.ours().items() if age >= days * DAY]
    gone = [image for image in old if library.remove(image)]
    print(f"{len(gone)} images removed, {len(old) - len(gone)} are in use; {library.free() / GB:.0f} GB are free")
    return command.OK


if __name__ == "__main__":
    main()
