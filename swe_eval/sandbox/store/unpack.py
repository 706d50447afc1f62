"""Makes a layer's files: ``python unpack.py FOLDER < layer.tar``. Adds a folder up: ``python unpack.py --sum FOLDER``.

It runs as root of a user namespace, which can write and read whatever modes an image gives its folders, and prints
``SUM BYTES``. What a layer takes away of those below it becomes what overlayfs wants: a character device 0/0 in place
of a file, an attribute on a folder that replaces another. Started as a file, it imports nothing of ours.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import sys
from collections import deque
from collections.abc import Iterator

GONE, REPLACES = ".wh.", ".wh..wh..opq"
"""The OCI image specification's names for both."""
TAR = ["tar", "--extract", "--preserve-permissions", "--no-same-owner", "--exclude=dev/*", "--exclude=./dev/*"]
"""No user makes device nodes; the sandbox has its own."""


def main() -> int | str:
    """See above; exit code 1 and a line if it fails."""
    *option, folder = sys.argv[1:]
    os.umask(0o022)
    if not option:
        os.makedirs(folder)
        if said := _extract(folder):
            return said
        for path in list(_whiteouts(folder)):
            _convert(path)
    print(*add_up(folder))
    return 0


def _extract(folder: str) -> str:
    """What tar says if it fails: before its last line, which tells that it ends. A full disk makes it say much."""
    tar = subprocess.Popen([*TAR, "--directory", folder], stderr=subprocess.PIPE, text=True, errors="replace")
    assert tar.stderr
    said = deque(tar.stderr, maxlen=2)
    if tar.wait() == 0:
        return ""
    return said[0].strip() if said else f"tar ended with {tar.returncode}"


def add_up(folder: str) -> tuple[str, int]:
    """A hash of the names, modes and contents of all that is in it, and the bytes that they take."""
    total, size = hashlib.sha256(), 0
    for path in _walk(folder):
        found = os.lstat(path)
        size += 512 * found.st_blocks
        name = os.fsencode(os.path.relpath(path, folder))
        total.update(b"%s\0%o %s\n" % (name, found.st_mode, _content(path, found.st_mode)))
    return total.hexdigest(), size


def _content(path: str, mode: int) -> bytes:
    if stat.S_ISLNK(mode):
        return os.fsencode(os.readlink(path))
    if stat.S_ISDIR(mode):
        return b",".join(name.encode() for name in os.listxattr(path) if name.startswith("user.overlay"))
    if not stat.S_ISREG(mode):
        return b""
    hashed = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            hashed.update(chunk)
    return hashed.hexdigest().encode()


def _walk(folder: str) -> Iterator[str]:
    """Everything below it, in the same order on every machine."""
    with os.scandir(folder) as listed:
        entries = sorted(listed, key=lambda entry: os.fsencode(entry.name))
    for entry in entries:
        yield entry.path
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)


def _whiteouts(folder: str) -> Iterator[str]:
    return (path for path in _walk(folder) if os.path.basename(path).startswith(GONE))


def _convert(path: str) -> None:
    os.unlink(path)
    parent, name = os.path.split(path)
    if name == REPLACES:
        os.setxattr(parent, "user.overlay.opaque", b"y")
    elif not name.startswith(f"{GONE}{GONE}"):  # other names of two are of a file system that Docker once had
        os.mknod(os.path.join(parent, name.removeprefix(GONE)), stat.S_IFCHR, os.makedev(0, 0))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except OSError as error:
        sys.exit(str(error))
