"""One prediction -> one grade: swebench's own functions, in a fresh sandbox of any kind."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import Any

from swebench.harness.constants import APPLY_PATCH_FAIL
from swebench.harness.run_evaluation import GIT_APPLY_CMDS
from swebench.harness.utils import make_test_spec

from swe_eval import reading
from swe_eval.benchmark.instances import Instance
from swe_eval.errors import SandboxError
from swe_eval.run_dir import write_json, write_text
from swe_eval.sandbox.sandbox import Completed, Sandbox, Sandboxes
from swe_eval.suspicious import suspicious

RESOLVED, UNRESOLVED, EMPTY_PATCH, INFRA = "resolved", "unresolved", "empty_patch", "infra"
TIMED_OUT = "tests timed out"
APPLYING = 300.0
"""Seconds that each step of applying a patch may take; the official harness waits for ever."""


def grade(
    instance: Instance, arm: str, model_patch: str, sandboxes: Sandboxes, folder: Path, timeout: float
) -> dict[str, Any]:
    """Apply the patch, run the tests, leave ``patch.diff``, ``test_output.txt`` and ``report.json`` in ``folder``.

    Args:
        arm: the prediction's ``model_name_or_path``.
        timeout: seconds that the tests may take.

    Returns:
        swebench's report of the instance (``resolved``, ``tests_status``, ...) with ``outcome`` added and, where the
        official harness reports an error instead of a verdict, ``error``; also ``suspicious`` (see there), if any is.

    Where swebench says that the environment failed, the tests run once more in another sandbox: what fails the same way
    twice is the patch's doing (a patch can print "Killed", too), and counts as it does in the official harness.

    Raises:
        InfraError: the sandbox failed; no report is left.
    """
    started = time.monotonic()
    write_text(folder / "patch.diff", model_patch)
    report = _no_verdict(EMPTY_PATCH) | {"patch_exists": False}
    for _ in range(2 if model_patch else 0):  # as upstream: a patch of blank lines is one that does not apply
        with sandboxes.start(instance, "grading") as sandbox:
            report = _verdict(instance, arm, model_patch, sandbox, folder, timeout)
        if not report["infra_failure"]:
            break
    if found := suspicious(model_patch, instance.row.get("test_patch") or ""):
        report["suspicious"] = found
    report["seconds"] = round(time.monotonic() - started, 2)
    write_json(folder / "report.json", {instance.instance_id: report})
    return report


def _verdict(
    instance: Instance, arm: str, model_patch: str, sandbox: Sandbox, folder: Path, timeout: float
) -> dict[str, Any]:
    """The steps of ``swebench.harness.run_evaluation.run_instance``, in its order."""
    if (refusal := _apply(sandbox, model_patch)) is not None:
        write_text(folder / "test_output.txt", f"{APPLY_PATCH_FAIL}:\n{refusal}")
        return _no_verdict(UNRESOLVED) | {"error": "patch does not apply"}
    spec = make_test_spec(dict(instance.row))
    script = shlex.quote(sandbox.put("eval.sh", spec.eval_script.encode()))
    done = sandbox.run(f"/bin/bash {script}", timeout=timeout)
    if done.timed_out:
        write_text(folder / "test_output.txt", f"{done.text}\n\nTimeout error: {timeout:g} seconds exceeded.")
        return _no_verdict(UNRESOLVED) | {"error": TIMED_OUT}
    write_text(folder / "test_output.txt", done.text)
    prediction = {"instance_id": instance.instance_id, "model_name_or_path": arm, "model_patch": model_patch}
    try:
        report = reading.read(instance.row, prediction, folder / "test_output.txt")
    except reading.Unreadable as error:
        return _no_verdict(UNRESOLVED) | {"error": str(error)}
    return report | {"outcome": RESOLVED if report["resolved"] else UNRESOLVED}


def _apply(sandbox: Sandbox, model_patch: str) -> str | None:
    """None when the patch is in; else what the last attempt printed."""
    patch = shlex.quote(sandbox.put("patch.diff", model_patch.encode("utf-8", "surrogateescape")))
    for attempt, command in enumerate(GIT_APPLY_CMDS):
        if attempt:  # --reject leaves half of it behind
            _run(sandbox, "git checkout -- . ; git clean -fd")
        done = _run(sandbox, f"{command} {patch}")
        if done.returncode == 0:
            return None
    already = _run(sandbox, f"git apply --check --reverse {patch}")
    return None if already.returncode == 0 else done.text


def _run(sandbox: Sandbox, command: str) -> Completed:
    """One that takes seconds: if it does not end, that says nothing of the patch."""
    done = sandbox.run(command, timeout=APPLYING)
    if done.timed_out:
        raise SandboxError(f"{command} took more than {APPLYING:g} seconds")
    return done


def _no_verdict(outcome: str) -> dict[str, Any]:
    """A report in swebench's keys for a prediction whose tests gave no log to read."""
    return {
        "patch_is_None": False,
        "patch_exists": True,
        "patch_successfully_applied": False,
        "resolved": False,
        "infra_failure": False,
        "outcome": outcome,
    }
