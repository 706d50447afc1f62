"""What a patch touches that can decide the tests' verdict without fixing anything.

The official harness restores the files of the instance's test patch and nothing else: a patch of ``conftest.py`` alone
can score resolved (SWE-bench #631; #538, #600 and #601 are the like). So the paths are shown beside the official
verdict, and never change it: most patches that add a test mean no harm.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from unidiff.errors import UnidiffParseError
from unidiff.patch import PatchSet

CONFIGURATION = {"conftest.py", "pytest.ini", ".pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml"}
"""What pytest reads before it collects; of the last three it is a section, and the whole file is named."""
START_UP = {"sitecustomize.py", "usercustomize.py"}
"""What Python runs before anything else, as it does the lines of ``*.pth``."""
DECISIVE = ("test configuration", "start-up files")
"""The kinds that can turn any verdict. The instance's tests are restored before they are run, and another test file is
mostly a new test, which nobody runs."""
_TEST_FILE = re.compile(r"(.*/)?(tests?|testing)/.*|(.*/)?(test_[^/]*|[^/]*_test|tests)\.py")
_HEADER = re.compile(r"^(?:--- a/|\+\+\+ b/|rename to )(\S+)", re.MULTILINE)


def suspicious(model_patch: str, test_patch: str) -> dict[str, list[str]]:
    """Paths by kind: ``the instance's tests``, ``test configuration``, ``start-up files``, ``test files``.

    Args:
        test_patch: the instance's own; a path in it is what the verdict is read from.
    """
    judged = set(_paths(test_patch))
    found: dict[str, list[str]] = {}
    for path in _paths(model_patch):
        if kind := "the instance's tests" if path in judged else kind_of(path):
            found.setdefault(kind, []).append(path)
    return found


def kind_of(path: str) -> str | None:
    """What a path is to the tests; None if nothing."""
    name = PurePosixPath(path).name
    if name in CONFIGURATION:
        return "test configuration"
    if name in START_UP or name.endswith(".pth"):
        return "start-up files"
    return "test files" if _TEST_FILE.fullmatch(path) else None


def _paths(patch: str) -> list[str]:
    """Every path that a patch writes or removes, sorted; of one that is no diff, what its headers name."""
    try:
        files = PatchSet(patch)
    except UnidiffParseError:  # ``patch --fuzz`` may take it all the same
        return sorted(set(_HEADER.findall(patch)))
    sides = {side.strip('"') for file in files for side in (file.source_file, file.target_file)}  # git quotes some
    return sorted({re.sub("^[ab]/", "", side) for side in sides - {"/dev/null"}})
