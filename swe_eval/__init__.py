"""Does this LoRA checkpoint fix more real issues, and can I believe the number?"""

import os
import sys
from types import TracebackType

__version__ = "0.1.0"
INTERRUPTED = "swe_eval: interrupted: the same command continues\n"


def _end_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """End in a line and with exit code 130, while ``command.py``, which sees to it later, is still being imported."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    os.write(2, INTERRUPTED.encode())
    os._exit(130)


def _read_and_write_utf8() -> None:
    """Begin anew where the locale is ASCII's or another's: files are UTF-8 there too; only output is the locale's."""
    encoding = sys.getfilesystemencoding()
    if encoding != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        environment = {"PYTHONIOENCODING": f"{encoding}:replace"} | os.environ | {"PYTHONUTF8": "1"}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


if sys.argv[0].rpartition("/")[2] in ("-m", "swe-eval"):  # python -m swe_eval..., which imports this package first
    sys.excepthook = _end_interrupted
    _read_and_write_utf8()
