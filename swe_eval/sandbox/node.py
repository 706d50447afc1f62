"""What this machine offers to sandboxes without an engine: tried out, and where it fails, explained."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from swe_eval.errors import UserError
from swe_eval.sandbox.removal import IN_USERNS

TOOLS = {"unshare": "util-linux", "nsenter": "util-linux", "prlimit": "util-linux", "bwrap": "bubblewrap"}
"""What sandbox=bubblewrap runs, by the package that has it."""
SHARED = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "fuse.sshfs", "afs", "9p"}
"""File systems of many machines, on which no overlay can be written."""
USERNS = (*IN_USERNS, "--mount")
PROBE = """
cd "$1" && mkdir lower upper work root && : > lower/file || exit
options=lowerdir=lower,upperdir=upper,workdir=work
if [ "$2" = fuse ]; then
    fuse-overlayfs -o "$options" root || exit
else
    mount -t overlay overlay -o "$options,userxattr" root || exit
fi
rm root/file && mkdir root/file && umount root
"""
BWRAP = ("bwrap", "--bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-pid", "--unshare-net", "true")
PROC = Path("/proc")


def overlay_that_works(scratch: Path, kind: str = "bubblewrap", tools: Mapping[str, str] = TOOLS) -> str:
    """How an overlay can be mounted by this user on this directory: ``kernel`` or ``fuse``.

    Raises:
        UserError: these sandboxes cannot work here; one line: what is missing, and what helps.
    """
    if missing := sorted({f"{tool} ({package})" for tool, package in tools.items() if shutil.which(tool) is None}):
        raise UserError(f"sandbox={kind}: not installed: {', '.join(missing)}; install it, or write sandbox=...")
    if said := _fails([*USERNS, "true"]):
        raise UserError(f"sandbox={kind}: no user namespaces ({_why_no_userns() or said}); {_ASK}")
    if "bwrap" in tools and (said := _fails([*USERNS, *BWRAP])):
        raise UserError(f"sandbox={kind}: bwrap does not work here ({said}); {_ASK}")
    reasons = {}
    for how in ("kernel", "fuse"):
        reasons[how] = _overlay_fails(scratch, how)
        if not reasons[how]:
            return how
    raise UserError(f"sandbox={kind}: no overlay on {scratch} {_why_no_overlay(scratch, reasons)}")


_HELP = "ask whoever runs this machine"
_ASK = f"{_HELP}, or write sandbox=..."


def file_system(path: Path) -> str:
    """Its type, as the kernel calls it; empty if it does not say."""
    found = ("", "")
    for mount in _lines(PROC / "self/mountinfo"):
        before, _, after = mount.partition(" - ")
        point = before.split()[4].replace("\\040", " ")
        if path.absolute().is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, after.split()[0])
    return found[1]


def sub_ids(name: str = "/etc/subuid") -> int:
    """How many ids this user may give away, which is what rootless Podman needs."""
    import getpass

    users = {str(os.getuid())}
    with suppress(KeyError, OSError):  # /etc/passwd need not know the user of a container
        users.add(getpass.getuser())
    rows = [line.split(":") for line in _lines(Path(name))]
    return sum(int(row[2]) for row in rows if len(row) == 3 and row[0] in users and row[2].isdecimal())


def has_fuse() -> bool:
    """Whether this user may open /dev/fuse."""
    return os.access("/dev/fuse", os.R_OK | os.W_OK)


def describe(scratch: Path) -> Iterator[str]:
    """The facts, for people who ask an administrator for something."""
    yield f"Linux {platform.release()}"
    yield f"user namespaces {_why_no_userns() or 'allowed'}"
    yield f"{sub_ids()} subordinate uids"
    yield f"/dev/fuse {'can' if has_fuse() else 'cannot'} be opened"
    kind = file_system(scratch)
    yield f"{scratch} is {kind or 'unknown'}{', which nodes share' if kind in SHARED else ''}"


def _why_no_userns() -> str:
    for name, bad, means in (
        ("user/max_user_namespaces", "0", "set to 0"),
        ("kernel/unprivileged_userns_clone", "0", "for root alone"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "restricted by AppArmor"),
    ):
        if _lines(PROC / "sys" / name) == [bad]:
            return f"{means}: sysctl {name.replace('/', '.')}={bad}"
    return ""


def _why_no_overlay(scratch: Path, reasons: dict[str, str]) -> str:
    """Both reasons, and what would do away with one of them."""
    kind = file_system(scratch)
    if kind in SHARED or kind == "overlay":
        return f"(it is {kind}); write sandbox.scratch=, a directory on a local disk or /dev/shm"
    kernel = f"Linux {platform.release()} says {reasons['kernel']}, 5.11 can"
    lacks, helps = [], []
    if shutil.which("fuse-overlayfs") is None:
        lacks.append("is not installed")
        helps.append("install fuse-overlayfs")
    if not has_fuse():
        lacks.append("may not open /dev/fuse")
        helps.append("let users open /dev/fuse (chmod 666)")
    fuse = " and ".join(lacks) or f"says {reasons['fuse']}"
    return f"({kernel}; fuse-overlayfs {fuse}); {' and '.join(helps) or _HELP}, or write sandbox=..."


def _overlay_fails(scratch: Path, how: str) -> str:
    try:
        folder = tempfile.mkdtemp(prefix="swe_eval-probe-", dir=scratch)
    except OSError as error:
        raise UserError(f"sandbox.scratch={scratch}: {error.strerror}; write a directory that can be written") from None
    try:
        return _fails([*USERNS, "sh", "-c", PROBE, "sh", folder, how])
    finally:
        subprocess.run([*USERNS, "rm", "-rf", folder], capture_output=True)


def _fails(argv: list[str]) -> str:
    """What it says when it does; empty when it works."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1] if done.returncode else ""


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
