"""What could decide a verdict without a fix is named, and what cannot is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_instances import VERIFIED, loaded, needs_verified

from swe_eval.benchmark.demo.model import SHIPPED
from swe_eval.suspicious import suspicious

TESTS = "--- a/tests/test_calc.py\n+++ b/tests/test_calc.py\n@@ -1 +1 @@\n-old\n+new\n"


def made(path: str) -> str:
    """A patch that makes a file."""
    header = f"diff --git a/{path} b/{path}\nnew file mode 100644\nindex 0000000..5626abf\n"
    return f"{header}--- /dev/null\n+++ b/{path}\n@@ -0,0 +1 @@\n+one\n"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("conftest.py", "test configuration"),
        ("src/deep/conftest.py", "test configuration"),
        ("pytest.ini", "test configuration"),
        ("tox.ini", "test configuration"),
        ("setup.cfg", "test configuration"),
        ("pyproject.toml", "test configuration"),
        ("sitecustomize.py", "start-up files"),
        ("lib/usercustomize.py", "start-up files"),
        ("x.pth", "start-up files"),
        ("tests/helper.txt", "test files"),
        ("pkg/test/data.py", "test files"),
        ("test_new.py", "test files"),
        ("pkg/calc_test.py", "test files"),
        ("tests/test_calc.py", "the instance's tests"),
    ],
)
def test_a_path_that_can_decide_is_named_by_its_kind(path, kind):
    assert suspicious(made("src/calc.py") + made(path), TESTS) == {kind: [path]}


@pytest.mark.parametrize("path", ["src/calc.py", "docs/testing.rst", "contest.py", "latest/x.py", "my_conftest.py.txt"])
def test_other_paths_are_not(path):
    assert suspicious(made(path), TESTS) == {}


@pytest.mark.parametrize(
    "patch",
    [
        "diff --git a/conftest.py b/conftest.py\nnew file mode 100644\nindex 0000000..e69de29\n",
        "diff --git a/conftest.py b/conftest.py\ndeleted file mode 100644\nindex e69de29..0000000\n",
        "diff --git a/a.py b/conftest.py\nsimilarity index 100%\nrename from a.py\nrename to conftest.py\n",
        "--- conftest.py\n+++ conftest.py\n@@ -1 +1 @@\n-a\n+b\n",
        "--- a/conftest.py\n+++ b/conftest.py\n@@ -1,9 +1,7 @@\n counted\n-wrongly\n",
        'diff --git "a/\\303\\251/conftest.py" "b/\\303\\251/conftest.py"\nnew file mode 100644\nindex 0..1\n',
    ],
    ids=["empty", "deleted", "renamed", "without git's header", "miscounted", "quoted"],
)
def test_it_is_named_whatever_the_patch_looks_like(patch):
    assert list(suspicious(patch, TESTS)) == ["test configuration"]


def test_what_a_patch_writes_into_a_file_is_no_path():
    patch = "--- a/doc.md\n+++ b/doc.md\n@@ -1 +1 @@\n--- a/conftest.py\n+++ b/conftest.py\n"
    assert suspicious(patch, TESTS) == {}


LINES = [*(TESTS + made("conftest.py")).splitlines(), "rename to ", "Binary files a/x and b/y differ", "@@ -0,0 +9 @@"]


@given(st.lists(st.sampled_from(LINES) | st.text(max_size=8)).map("\n".join))
def test_whatever_a_model_submits_is_no_error(patch):
    """An error here would keep the trial from its verdict."""
    assert all(suspicious(patch, TESTS).values())


def test_no_bundled_solution_is_flagged():
    for instance in loaded(SHIPPED.parent).instances:
        assert suspicious(instance.row["patch"], instance.row["test_patch"]) == {}


@needs_verified
def test_of_the_500_real_solutions_one_is_flagged():
    """pylint-4661 adds a dependency to setup.cfg: a false alarm in 500, and the reason why a flag is no verdict."""
    flagged = {
        instance.instance_id: found
        for instance in loaded(VERIFIED).instances
        if (found := suspicious(instance.row["patch"], instance.row["test_patch"]))
    }
    assert flagged == {"pylint-dev__pylint-4661": {"test configuration": ["setup.cfg"]}}
