"""Enters a live sandbox: ``python enter.py PID CAPABILITY,... COMMAND...``, where PID is any process in it.

It runs as root of the sandbox's user namespace, and goes in with what the kernel asks for that; whatever capability is
not named is gone for good before the command starts. Started as a file, it imports nothing of ours.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

SPACES = ("ipc", "uts", "net", "pid", "mnt")
"""The last one is ``mnt``: from then on, ``/proc`` is the sandbox's."""
ALL = tuple(
    """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP
    """.split()  # noqa: SIM905 - thirty-two lines say no more
)
"""By number, from zero (linux/capability.h); those that came later have no names here, and are never kept."""
_PR_CAPBSET_READ, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 23, 24, 38
_LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """The command's exit code, as a shell says it."""
    pid, kept, *command = sys.argv[1:]
    root = os.open(f"/proc/{pid}/root", os.O_RDONLY)
    others = [name for name in SPACES if _is_other(pid, name)]
    spaces = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY) for name in others]
    for space in spaces:
        _check(_LIBC.setns(space, 0))
        os.close(space)
    os.fchdir(root)
    os.chroot(".")
    os.close(root)
    if child := os.fork():  # only a child is in the process space
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        return code if code >= 0 else 128 - code
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them
        signal.signal(number, signal.SIG_DFL)
    _drop({ALL.index(name) for name in kept.split(",")})
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        os._exit(127)


def _is_other(pid: str, name: str) -> bool:
    """One that is shared with the machine is not ours to enter."""
    return not os.path.samestat(os.stat(f"/proc/{pid}/ns/{name}"), os.stat(f"/proc/self/ns/{name}"))


def _drop(kept: set[int]) -> None:
    """What root does not have in its bounding set it does not get by an exec."""
    _check(_LIBC.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    number = 0
    while _LIBC.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) >= 0:
        if number not in kept:
            _check(_LIBC.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0))
        number += 1


def _check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


if __name__ == "__main__":
    sys.exit(main())
