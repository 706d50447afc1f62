"""A prediction's grade is the official one, on every backend; the last classes ask the official harness itself."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest
from sandbox_fixtures import CONTAINERS, DEMO_IDS, is_running, what_is_left
from swebench.harness import run_evaluation
from swebench.harness.constants import APPLY_PATCH_FAIL, END_TEST_OUTPUT, START_TEST_OUTPUT
from swebench.harness.reporting import make_run_report
from swebench.harness.utils import get_predictions_from_file, make_test_spec
from test_demo_run import child_of, wait_for
from test_process import eventually

from swe_eval import grading, reading
from swe_eval.benchmark.instances import Instance
from swe_eval.errors import InfraError, SandboxError
from swe_eval.grading import RESOLVED, TIMED_OUT, UNRESOLVED, grade
from swe_eval.report.results import collect, write_results
from swe_eval.run_dir import RunDir, Trial, write_text
from swe_eval.sandbox.sandbox import Sandbox, Sandboxes, sandboxes
from swe_eval.settings import PACKAGE, Settings

ARM = "sft-step.300"
EMPTY = ""
BLANK = "\n"

# subtraction is right after it, division still wrong
WRONG = """\
diff --git a/calc.py b/calc.py
--- a/calc.py
+++ b/calc.py
@@ -11,5 +11,7 @@ def evaluate(expression):
     for token in expression.split():
         if token in OPERATORS:
             left, right = stack.pop(), stack.pop()
+            if token == "-":
+                left, right = right, left
             stack.append(OPERATORS[token](left, right))
         else:
"""

DOES_NOT_APPLY = """\
diff --git a/calc.py b/calc.py
--- a/calc.py
+++ b/calc.py
@@ -1,3 +1,3 @@
 no such line
-nor this
+in the file
 or any other
"""

# the fix with two context lines misremembered, and a file that `git apply --reject` leaves behind for the next attempt
INEXACT = """\
diff --git a/notes.txt b/notes.txt
new file mode 100644
--- /dev/null
+++ b/notes.txt
@@ -0,0 +1 @@
+a note
diff --git a/calc.py b/calc.py
--- a/calc.py
+++ b/calc.py
@@ -9,7 +9,7 @@ def evaluate(expression):
     \"\"\"The value of an expression.\"\"\"
     stack = []
     for token in expression.split():
         if token in OPERATORS:
-            left, right = stack.pop(), stack.pop()
+            right, left = stack.pop(), stack.pop()
             stack.append(OPERATORS[token](left, right))
         otherwise:
"""

BREAKS_THE_IMPORT = """\
diff --git a/calc.py b/calc.py
--- a/calc.py
+++ b/calc.py
@@ -3,3 +3,4 @@
 from operator import add, mul, sub, truediv
+import no_such_module

 OPERATORS = {"+": add, "-": sub, "*": mul, "/": truediv}
"""

ENDS_THE_TESTS = BREAKS_THE_IMPORT.replace("import no_such_module", "import os; os._exit(3)")

# fixes nothing, and pytest reports every test as passed
CHEATS = """\
diff --git a/conftest.py b/conftest.py
new file mode 100644
--- /dev/null
+++ b/conftest.py
@@ -0,0 +1,7 @@
+import pytest
+
+
+@pytest.hookimpl(hookwrapper=True)
+def pytest_runtest_makereport():
+    report = (yield).get_result()
+    report.outcome = "passed"
"""


def hangs(command: str) -> str:
    """A patch whose tests wait for a command."""
    return BREAKS_THE_IMPORT.replace("import no_such_module", f"import os; os.system({command!r})")


def status(instance: Instance, *failed: str) -> dict[str, Any]:
    """swebench's ``tests_status`` when these tests fail and the instance's others pass."""
    empty = {"success": [], "failure": []}
    return {
        kind: {
            "success": [test for test in instance.row[kind] if test not in failed],
            "failure": [test for test in instance.row[kind] if test in failed],
        }
        for kind in ("FAIL_TO_PASS", "PASS_TO_PASS")
    } | {"FAIL_TO_FAIL": empty, "PASS_TO_FAIL": empty}


def report(outcome: str, **more: Any) -> dict[str, Any]:
    """A grade without its duration."""
    return {
        "patch_is_None": False,
        "patch_exists": True,
        "patch_successfully_applied": "tests_status" in more,
        "resolved": outcome == "resolved",
        "infra_failure": False,
        "outcome": outcome,
        **more,
    }


@pytest.fixture
def graded(backend: Sandboxes, calc: Instance, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Grade a patch for ``calc`` in ``tmp_path``; the files that are left agree with what is returned."""

    def graded(model_patch: str, instance: Instance = calc, timeout: float = 60) -> dict[str, Any]:
        grade_ = grade(instance, ARM, model_patch, backend, tmp_path, timeout)
        assert json.loads((tmp_path / "report.json").read_text()) == {instance.instance_id: grade_}
        assert (tmp_path / "patch.diff").read_bytes() == model_patch.encode("utf-8", "surrogateescape")
        assert grade_.pop("seconds") > 0
        return grade_

    return graded


def log_of(folder: Path) -> str:
    return (folder / "test_output.txt").read_bytes().decode()


class NoSandboxes:
    """A backend that must not be asked."""

    def start(self, instance: Instance, purpose: str) -> AbstractContextManager[Sandbox]:
        raise AssertionError("a sandbox was started")

    def remove_all(self) -> None:
        pass


class TestVerdict:
    GOLD = (
        *(("local", instance_id) for instance_id in DEMO_IDS),
        *(pytest.param(*kind.values, "demo__calc-1", marks=kind.marks) for kind in CONTAINERS),
    )

    @pytest.mark.parametrize(("kind", "instance_id"), GOLD, indirect=["kind"])
    def test_gold_resolves(
        self, demo: dict[str, Instance], graded: Callable[..., dict[str, Any]], instance_id: str
    ) -> None:
        """The reference patch of every bundled task passes every test; in containers one stands for them all."""
        instance = demo[instance_id]
        assert graded(instance.row["patch"], instance) == report("resolved", tests_status=status(instance))

    def test_wrong_patch(self, calc: Instance, graded: Callable[..., dict[str, Any]]) -> None:
        """Half a fix is unresolved, and the report says which tests failed."""
        assert graded(WRONG) == report("unresolved", tests_status=status(calc, "tests/test_calc.py::test_division"))

    def test_empty_patch(self, calc: Instance, tmp_path: Path) -> None:
        """No patch is no work: no sandbox is started."""
        found = grade(calc, ARM, EMPTY, NoSandboxes(), tmp_path, 60)
        assert found == report("empty_patch", patch_exists=False, seconds=found["seconds"])
        assert json.loads((tmp_path / "report.json").read_text()) == {"demo__calc-1": found}
        assert sorted(path.name for path in tmp_path.iterdir()) == ["patch.diff", "report.json"]

    @pytest.mark.parametrize("patch", [DOES_NOT_APPLY, BLANK], ids=["no such lines", "blank"])
    def test_patch_that_does_not_apply(self, graded: Callable[..., dict[str, Any]], patch: str, tmp_path: Path) -> None:
        """It is the model's error: unresolved, without a verdict of the tests, and the log holds the refusal."""
        assert graded(patch) == report("unresolved", error="patch does not apply")
        assert log_of(tmp_path).startswith(f"{APPLY_PATCH_FAIL}:\n")
        assert len(log_of(tmp_path).splitlines()) > 1

    @pytest.mark.skipif(shutil.which("patch") is None, reason="no patch command")
    @pytest.mark.parametrize("kind", ["local"])  # whether an image has the command is the image's affair
    def test_inexact_patch_is_applied(self, calc: Instance, graded: Callable[..., dict[str, Any]]) -> None:
        """Where git refuses, ``patch --fuzz`` is tried on a clean tree, as upstream does."""
        assert graded(INEXACT) == report("resolved", tests_status=status(calc))

    def test_patch_that_cheats(self, calc: Instance, graded: Callable[..., dict[str, Any]]) -> None:
        """It is resolved, as in the official harness, and what it touches stands beside that."""
        flagged = {"test configuration": ["conftest.py"]}
        assert graded(CHEATS) == report("resolved", tests_status=status(calc), suspicious=flagged)

    def test_tests_that_never_ran(self, graded: Callable[..., dict[str, Any]]) -> None:
        """A patch that ends the test run is unresolved: no log is no proof."""
        assert graded(ENDS_THE_TESTS) == report("unresolved")

    def test_tests_that_hang(
        self, backend: Sandboxes, calc: Instance, graded: Callable[..., dict[str, Any]], nap: str, tmp_path: Path
    ) -> None:
        """Past the time limit they are killed, and upstream's line says so in the log."""
        assert graded(hangs(nap), timeout=3) == report("unresolved", error=TIMED_OUT)
        assert log_of(tmp_path).endswith("\n\nTimeout error: 3 seconds exceeded.")
        with backend.start(calc, "grading") as sandbox:
            assert eventually(lambda: not is_running(sandbox, nap))

    @pytest.mark.parametrize("content", ["a\r\nb\r\n", "caf\udce9\n"], ids=["CRLF", "latin-1"])
    def test_patch_is_bytes(
        self, calc: Instance, graded: Callable[..., dict[str, Any]], content: str, tmp_path: Path
    ) -> None:
        """Line ends and encodings of a patch reach the files that it makes."""
        lines = content.splitlines(keepends=True)
        header = f"diff --git a/n b/n\nnew file mode 100644\n--- /dev/null\n+++ b/n\n@@ -0,0 +1,{len(lines)} @@\n"
        script = calc.row["eval_script"].replace("git status", "od -An -c n", 1)
        patch = calc.row["patch"] + header + "".join(f"+{line}" for line in lines)
        assert graded(patch, replace(calc, row={**calc.row, "eval_script": script}))["resolved"]
        expected = subprocess.run(
            ["od", "-An", "-c"], input=content.encode("utf-8", "surrogateescape"), capture_output=True
        )
        assert expected.stdout.decode() in log_of(tmp_path)


class TestInfra:
    """Which sandboxes go away, and how, is told in ``test_sandbox.py``."""

    @pytest.fixture
    def kind(self) -> str:
        return "local"

    @pytest.mark.parametrize(
        ("said", "reason"),
        [("Could not resolve host: pypi.org", "network_unreachable"), ("Cannot allocate memory", "out_of_memory")],
    )
    def test_environment_that_failed(
        self, backend: Sandboxes, calc: Instance, tmp_path: Path, said: str, reason: str
    ) -> None:
        """What swebench calls a failure of the environment, twice in a row, counts as in the official harness."""
        instance = replace(calc, row={**calc.row, "eval_script": f"echo {shlex.quote(said)} >&2\nexit 1\n"})
        report = grade(instance, ARM, WRONG, backend, tmp_path, 60)
        assert (report["outcome"], report["infra_failure_reason"]) == (UNRESOLVED, reason)

    def test_environment_that_failed_once(self, backend: Sandboxes, calc: Instance, tmp_path: Path) -> None:
        """The tests run once more in another sandbox, and that is the verdict."""
        been_here = tmp_path / "been-here"
        first = f"[ -e {been_here} ] || {{ touch {been_here}; echo Cannot allocate memory; exit 1; }}\n"
        instance = replace(calc, row={**calc.row, "eval_script": first + calc.row["eval_script"]})
        report = grade(instance, ARM, calc.row["patch"], backend, tmp_path / "graded", 60)
        assert report["outcome"] == RESOLVED

    def test_sandbox_that_goes_away(
        self, kind: str, backend: Sandboxes, calc: Instance, run_id: str, tmp_path: Path
    ) -> None:
        """Tests whose sandbox is removed under them, as when a run is interrupted, have no verdict."""

        def interrupt() -> None:
            while not what_is_left(kind, run_id):
                time.sleep(0.1)
            time.sleep(2)
            backend.remove_all()

        with ThreadPoolExecutor() as pool:
            interrupted = pool.submit(interrupt)
            with pytest.raises(SandboxError):
                grade(calc, ARM, hangs("while [ -e calc.py ]; do sleep 0.1; done"), backend, tmp_path, 60)
            interrupted.result()
        assert [path.name for path in tmp_path.iterdir()] == ["patch.diff"]

    def test_a_patch_that_takes_too_long_to_apply(
        self, backend: Sandboxes, calc: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on a disk that hardly answers: it is not known whether it applies."""
        monkeypatch.setattr(grading, "APPLYING", 1)
        monkeypatch.setattr(grading, "GIT_APPLY_CMDS", ["sleep 60;", *run_evaluation.GIT_APPLY_CMDS])
        with pytest.raises(SandboxError, match=r"^sleep 60; .* took more than 1 seconds$"):
            grade(calc, ARM, DOES_NOT_APPLY, backend, tmp_path, 60)
        assert [path.name for path in tmp_path.iterdir()] == ["patch.diff"]

    def test_awkward_paths(
        self, calc: Instance, settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A temporary folder with a blank and a quote in its name is no failure of the model."""
        (folder := tmp_path / "it's a folder").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        with sandboxes(settings("sandbox=local"), "awkward") as backend:
            found = grade(calc, ARM, calc.row["patch"], backend, tmp_path / "evaluation", 60)
        assert found["outcome"] == "resolved"


class TestReading:
    """Sympy's tests may print an expression of any length, and swebench then reads for hours."""

    def read(self, calc: Instance, log: Path) -> dict[str, Any]:
        row = calc.row | {"log_parser": "parse_log_sympy", "FAIL_TO_PASS": ["test_long"], "PASS_TO_PASS": []}
        prediction = {"instance_id": calc.instance_id, "model_name_or_path": ARM, "model_patch": WRONG}
        return reading.read(row, prediction, log)

    @pytest.mark.parametrize("characters", [reading.LONG_LINE - 99, reading.LONG_LINE])
    def test_a_long_line_changes_no_verdict(self, calc: Instance, tmp_path: Path, characters: int) -> None:
        log = tmp_path / "test_output.txt"
        log.write_text(f"{START_TEST_OUTPUT}\n{'x' * characters}\ntest_long ok\n{END_TEST_OUTPUT}\n")
        assert self.read(calc, log)["resolved"]

    @pytest.mark.parametrize("text", ["_" * 1_000_000, f"{'_' * 9_000}\n" * 1_000], ids=["a line", "many lines"])
    def test_reading_is_given_up(
        self, calc: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
    ) -> None:
        monkeypatch.setattr(reading, "PATIENCE", 5)
        log = tmp_path / "test_output.txt"
        log.write_text(f"{START_TEST_OUTPUT}\n{text}\ntest_long ok\n{END_TEST_OUTPUT}\n")
        with pytest.raises(reading.Unreadable, match=r"^swebench did not read the tests' output in 5 seconds$"):
            self.read(calc, log)

    def test_an_interrupt_at_the_terminal_ends_the_process_that_reads(
        self, calc: Instance, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """And it says nothing of it."""
        log = tmp_path / "test_output.txt"
        log.write_text(f"{START_TEST_OUTPUT}\n{'_' * 1_000_000}\n{END_TEST_OUTPUT}\n")
        with ThreadPoolExecutor() as pool:
            result = pool.submit(self.read, calc, log)
            child = wait_for(lambda: child_of(os.getpid(), b"swe_eval.reading"))
            while not result.done():  # one that comes while it imports may be swallowed
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGINT)
                time.sleep(0.5)
            assert isinstance(result.exception(), InfraError)
        assert capfd.readouterr().err == ""


class TestOfficialReport:
    """What official tools make of the files of a run."""

    @pytest.fixture
    def kind(self) -> str:
        return "local"

    def test_summary_is_upstreams(
        self, backend: Sandboxes, calc: Instance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """``results/<adapter>.json`` is what ``make_run_report`` writes about the same reports and logs."""
        patches = {
            "gold": calc.row["patch"],
            "wrong": WRONG,
            "inexact": INEXACT,
            "breaks": BREAKS_THE_IMPORT,
            "ends": ENDS_THE_TESTS,
            "hangs": hangs("sleep 60"),
            "refused": DOES_NOT_APPLY,
            "blank": BLANK,
            "empty": EMPTY,
        }
        rows = {name: {**calc.row, "instance_id": name} for name in [*patches, "not predicted"]}
        run, trials = RunDir(tmp_path / "run"), [Trial(ARM, name) for name in rows]
        for trial in trials[:-1]:
            write_text(run.prediction(trial), patches[trial.instance_id])
            instance = Instance(rows[trial.instance_id], calc.context)
            timeout = 3 if trial.instance_id == "hangs" else 60
            grade(instance, ARM, patches[trial.instance_id], backend, run.evaluation(trial), timeout)
        arms = collect(run, trials)
        write_results(run, trials, arms)

        monkeypatch.chdir(tmp_path)
        for trial in trials[:-1]:
            as_upstream(run.evaluation(trial), run_evaluation.RUN_EVALUATION_LOG_DIR / "id" / ARM / trial.instance_id)
        predictions = get_predictions_from_file(str(run.predictions_jsonl(ARM)), "", "")
        by_id = {prediction["instance_id"]: prediction for prediction in predictions}
        official = make_run_report(by_id, list(rows.values()), "id", report_dir="official")
        ours = json.loads(run.results(ARM).read_text())
        assert ours == json.loads(official.read_text())
        kinds = ("resolved", "unresolved", "error", "empty_patch", "incomplete")
        assert {kind: ours[f"{kind}_ids"] for kind in kinds} == {
            "resolved": ["gold", "inexact"],
            "unresolved": ["breaks", "ends", "wrong"],
            "error": ["blank", "hangs", "refused"],
            "empty_patch": ["empty"],
            "incomplete": ["not predicted"],
        }
        assert ours["failure_reasons"] == {"breaks": "missing_module", "hangs": "tests_timed_out"}

    def test_predictions_are_read_back(self, tmp_path: Path) -> None:
        """``predictions/<adapter>.jsonl`` is upstream's: one row per prediction, patches as they were."""
        patches = {"a": WRONG, "b": EMPTY, "c": "CRLF\r\n\u2028\x85\x0c\x00€\n", "d": "latin-1 \udce9\n"}
        run, trials = RunDir(tmp_path), [Trial(ARM, name) for name in [*patches, "not predicted"]]
        for trial in trials[:-1]:
            write_text(run.prediction(trial), patches[trial.instance_id])
        run.write_predictions_jsonl(ARM, trials)
        assert get_predictions_from_file(str(run.predictions_jsonl(ARM)), "", "") == [
            {"instance_id": name, "model_name_or_path": ARM, "model_patch": patch} for name, patch in patches.items()
        ]

    def test_empty_patch_is_not_run_upstream_either(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The official harness leaves out exactly what we call empty."""
        monkeypatch.chdir(tmp_path)
        predictions = {
            name: {"instance_id": name, "model_name_or_path": ARM, "model_patch": patch}
            for name, patch in {"demo__calc-1": EMPTY, "demo__dates-2": BLANK}.items()
        }
        demo = str(PACKAGE / "benchmark/demo")
        to_run = run_evaluation.get_dataset_from_preds(demo, "test", [], predictions, "id", False, task_repo=demo)
        assert [row["instance_id"] for row in to_run] == ["demo__dates-2"]


def as_upstream(ours: Path, folder: Path) -> None:
    """Lay an evaluation out as upstream does, which writes no report where ours holds an ``error`` or no patch."""
    folder.mkdir(parents=True)
    (found,) = json.loads((ours / "report.json").read_text()).values()
    for name in ["test_output.txt"] if "error" in found else ["test_output.txt", "report.json"]:
        if (ours / name).is_file():
            shutil.copy(ours / name, folder)


@pytest.mark.docker
class TestOfficialHarness:
    """``swebench.harness.run_evaluation.run_instance`` itself, in Docker, beside ours."""

    @pytest.fixture
    def kind(self) -> str:
        return "docker"

    @pytest.mark.parametrize("name", ["gold", "wrong", "inexact", "ends", "refused", "blank", "cheats"])
    def test_same_verdict(
        self,
        name: str,
        calc: Instance,
        graded: Callable[..., dict[str, Any]],
        run_id: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Resolved or not, test by test, the two agree; where ours has an error, upstream has no report."""
        others = {"wrong": WRONG, "inexact": INEXACT, "ends": ENDS_THE_TESTS, "refused": DOES_NOT_APPLY, "blank": BLANK}
        patch = {"gold": calc.row["patch"], "cheats": CHEATS, **others}[name]
        ours = graded(patch)

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(run_evaluation, "cleanup_container", remove)
        prediction = {"instance_id": calc.instance_id, "model_name_or_path": ARM, "model_patch": patch}
        client = docker.from_env()
        official = run_evaluation.run_instance(make_test_spec(dict(calc.row)), prediction, client, run_id, timeout=60)
        client.close()
        if "error" in ours:
            assert official is None
        else:
            ours = {key: value for key, value in ours.items() if key not in ("outcome", "suspicious")}
            assert official == (calc.instance_id, {calc.instance_id: ours})


def remove(client: docker.DockerClient, container: Any, logger: Any) -> None:
    """Upstream stops the container first, which takes 15 seconds."""
    container.remove(force=True)
