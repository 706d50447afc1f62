"""What swebench reads in the output of tests; where that could take hours, in a process that can be ended.

swebench 5.0.2 searches sympy's output with an expression (``parse_log_sympy``) that takes time by the square of a
line's length: 2 to 8 s for 40,000 characters, an hour for a million, and no other thread of the process goes on.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swebench.harness.grading import get_eval_report
from swebench.harness.utils import make_test_spec

from swe_eval.errors import InfraError
from swe_eval.serving.guard import PR_SET_PDEATHSIG, prctl

LONG_LINE = 20_000
"""Characters, which take two seconds at most, as do lines whose squares are as much together."""
PATIENCE = 300.0
"""Seconds that a process may read."""


class Unreadable(Exception):
    """swebench did not come to an end."""


def read(row: Mapping[str, Any], prediction: Mapping[str, str], log: Path) -> dict[str, Any]:
    """swebench's report (``get_eval_report``) of one prediction, by the output of its tests.

    Raises:
        Unreadable: lines are so long that they take more than ``PATIENCE``.
        InfraError: the process ended without a report.
    """
    if sum(len(line) ** 2 for line in log.read_bytes().splitlines()) < LONG_LINE**2:
        return _report(row, prediction, log)
    asked = json.dumps({"row": row, "prediction": prediction, "log": str(log)}, default=str)
    argv = [sys.executable, "-m", __name__]
    try:
        answer = subprocess.run(argv, input=asked, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise Unreadable(f"swebench did not read the tests' output in {PATIENCE:g} seconds") from error
    if answer.returncode:
        raise InfraError(f"swebench did not read the tests' output: {answer.stderr.strip()[-500:]}")
    report: dict[str, Any] = json.loads(answer.stdout)
    return report


def _report(row: Mapping[str, Any], prediction: Mapping[str, str], log: Path) -> dict[str, Any]:
    reports = get_eval_report(make_test_spec(dict(row)), dict(prediction), str(log), include_tests_status=True)
    report: dict[str, Any] = reports[prediction["instance_id"]]
    return report


if __name__ == "__main__":
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    question = json.load(sys.stdin)
    print(json.dumps(_report(question["row"], question["prediction"], Path(question["log"]))))
