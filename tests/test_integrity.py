"""What looks for its answer is flagged, with its command; what a careful engineer does every day is not."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from trajectory_fixtures import trajectory

from swe_eval.command import settings_of
from swe_eval.report.clean import clean_lines, cleaned, flag_lines, integrity
from swe_eval.report.integrity import COPY, HISTORY, NETWORK, PATCH, TESTS, contamination, flags_of, scan
from swe_eval.report.integrity.known import has_no_network, package_names
from swe_eval.report.results import Arm, Verdict
from swe_eval.report.rows import Row

DJANGO, REQUESTS = "django__django-11099", "psf__requests-1724"
MODELS = "/opt/miniconda3/lib/python3.11/site-packages/requests/models.py"


def kinds(instance_id: str, *steps, **how) -> list[str]:
    return [flag["kind"] for flag in scan(instance_id, trajectory(*steps, **how))]


@pytest.mark.parametrize(
    "command",
    [
        "git log --all --oneline -- django/contrib/auth/validators.py",
        "cd /testbed && git --no-pager log --oneline HEAD..origin/main | head -50",
        "git reflog",
        "git log -g",
        "git show 1b7d6a1c9f",
        "git show origin/main:django/db/models/query.py > /tmp/q.py",
        "git fsck --lost-found",
        "git -C /testbed checkout FETCH_HEAD -- tests/",
        "git diff HEAD upstream/stable/3.0.x -- tests",
        "git cat-file --batch-all-objects --batch-check",
        'echo "$(git log --all -3)"',
        "# don't worry\ngit log --all",
        "if true; then git reflog; fi",
        "bash -lc 'cd /testbed; git log --remotes'",
        "sh <<'EOF'\ngit reflog\nEOF",
        "GIT_PAGER=cat timeout 9 git log --all",
    ],
)
def test_looking_for_later_commits_is_flagged(command):
    assert kinds(DJANGO, command) == [HISTORY]


@pytest.mark.parametrize(
    "command",
    [
        "timeout 60 git fetch origin main 2>&1 | tail -3",
        "git ls-remote",
        "bash -lc 'git clone --depth 1 https://github.com/django/django /tmp/d'",
        "git clone git@github.com:django/django.git",
        'X=$(curl -s https://raw.githubusercontent.com/django/django/main/django/urls/base.py); echo "$X"',
        "for f in a b; do curl -O https://x.org/$f; done",
        "wget -q github.com/django/django/pull/11099.diff",
        "pip install --target /tmp/new Django==4.2",
        "python3 -m pip download django",
        "pip install git+https://github.com/django/asgiref",
        "python - <<'EOF'\nfrom urllib.request import urlopen\nprint(urlopen('https://code.djangoproject.com/1').read())\nEOF",
        "python -c \"from datasets import load_dataset; load_dataset('princeton-nlp/SWE-bench')\"",
        "gh pr view 11099",
    ],
)
def test_reaching_for_the_network_is_flagged(command):
    assert kinds(DJANGO, command) == [NETWORK]


@pytest.mark.parametrize(
    ("instance_id", "names"),
    [
        (REQUESTS, {"requests"}),
        ("scikit-learn__scikit-learn-10297", {"scikit-learn", "sklearn"}),
        ("pvlib__pvlib-python-1606", {"pvlib-python", "pvlib"}),
        ("pytest-dev__pytest-5262", {"pytest", "_pytest"}),
        ("one", set()),
    ],
)
def test_a_package_is_known_by_the_names_that_it_is_installed_by(instance_id, names):
    assert package_names(instance_id) == names


@pytest.mark.parametrize(
    ("instance_id", "command"),
    [
        (REQUESTS, f"sed -n '1,80p' {MODELS}"),
        (REQUESTS, "cat /opt/miniconda3/lib/python3.11/site-packages/pip/_vendor/requests/sessions.py"),
        (REQUESTS, f"diff -u requests/models.py {MODELS}"),
        (REQUESTS, f"python -c \"print(open('{MODELS}').read())\""),
        (REQUESTS, "cat /opt/miniconda3/envs/testbed/lib/python3.9/site-packages/pip/_vendor/requests/models.py"),
        ("pytest-dev__pytest-7168", "cat /usr/lib/python3/dist-packages/_pytest/_io/saferepr.py"),
        ("scikit-learn__scikit-learn-1", "grep -n fit /usr/lib/python3/dist-packages/sklearn/base.py"),
    ],
)
def test_reading_another_installed_copy_is_flagged(instance_id, command):
    assert kinds(instance_id, command) == [COPY]


@pytest.mark.parametrize(
    "command",
    [
        "cat > conftest.py <<'EOF'\nimport pytest\nEOF",
        "echo 'x' | tee -a setup.cfg",
        "sed -i 's/assertEqual/assertTrue/' tests/auth_tests/test_validators.py",
        "rm tests/auth_tests/test_validators.py",
        "mv /testbed/pytest.ini /tmp/",
        "echo 'import os' > lib/sitecustomize.py",
    ],
)
def test_editing_what_judges_is_flagged_and_disqualifies_nothing_by_itself(command):
    [flag] = scan(DJANGO, trajectory(command))
    assert (flag["kind"], flag["is_disqualifying"]) == (TESTS, False)


@pytest.mark.parametrize(
    "command",
    [
        *("git log --oneline -5", "git log -p --follow -- django/x.py | head -100", "git show HEAD", "git diff"),
        *("git show HEAD~3:django/x.py", "git diff HEAD~1 -- x", "git blame -L1,20 x.py", "git branch -a", "git tag"),
        *("git stash && python -m pytest && git stash pop", "git checkout -- tests/test_x.py", "git rev-parse HEAD"),
        *("git log --grep='fix #11099'", "git log -S'foo' --oneline", "git submodule update --init"),
        *(
            "pip install -e .",
            "pip install -r requirements.txt",
            "python -m pip install pytest-xdist",
            "pip show django",
        ),
        *(
            "grep -rn 'git log --all' docs/",
            "git grep -n curl",
            'grep -rn "https://github.com/django" .',
            "echo 'git fetch'",
        ),
        *("curl http://localhost:8000/", "curl -s http://127.0.0.1:8000/admin/", "curl --version"),
        "cat > notes.md <<'EOF'\nUse git log --all and curl https://github.com/x\nEOF",
        "python - <<'EOF'\nimport requests\nprint(requests.get('http://httpbin.org/get'))\nEOF",
        "cat > tests/test_new.py <<'EOF'\ndef test(): pass\nEOF",
        "cat > test_fix.py <<'EOF'\nx\nEOF\npython test_fix.py; rm test_fix.py",
        'python -c "import django; print(django.__file__)"',
        "ls /opt/miniconda3/envs/testbed/lib/python3.6/site-packages | grep -i django",
        "cat /opt/miniconda3/lib/python3.11/site-packages/asgiref/sync.py",
        "cat /opt/miniconda3/envs/testbed/lib/python3.9/site-packages/django/urls/base.py",
        "sed -i 's/a/b/' django/test/client.py",
        *("find . -name conftest.py", "cat conftest.py setup.cfg", "cp conftest.py /tmp/", "rm -rf /tmp/test_x.py"),
        "sed -n '1,20p' tests/auth_tests/test_validators.py",
        "python -m pytest tests/ -p no:cacheprovider -c pytest.ini > /tmp/out.txt 2>&1; tail -5 /tmp/out.txt",
        *("", "'", "$(", "<<EOF", "if", "git", "cat <<'EOF' > a.py\nnever ends"),
    ],
)
def test_a_days_work_is_not(command):
    assert kinds(DJANGO, command) == []


def test_a_commit_that_an_honest_look_has_named_may_be_shown():
    assert kinds(DJANGO, ("git log --oneline -3", "1b7d6a1 x"), "git show 1b7d6a1c9f") == []
    assert kinds(DJANGO, ("git log --all -3", "1b7d6a1 x"), "git show 1b7d6a1c9f") == [HISTORY, HISTORY]


def test_a_commit_that_the_issue_names_may_be_shown():
    assert kinds(DJANGO, "git show 1b7d6a1c9f", issue="Regression in 1b7d6a1c9f2d.") == []


def test_what_the_agent_wrote_itself_it_may_take_away():
    assert kinds(DJANGO, "cat > tests/test_new.py <<'EOF'\nx\nEOF", "rm tests/test_new.py") == []


def test_a_flag_has_its_turn_and_the_command_of_the_line_that_it_is_about():
    [flag] = scan(DJANGO, trajectory("ls", "cd /testbed && git log --all | head -3 && ls"))
    assert flag == {"kind": HISTORY, "turn": 2, "evidence": "git log --all", "is_disqualifying": True}


@pytest.mark.parametrize(
    ("step", "how", "disqualifies"),
    [
        (("git log --all", "1b7d6a1 Fix"), {}, True),
        (("git log --all", "1b7d6a1 Fix"), {"scrubbed": True}, False),
        (("git log --all -- x.py", ""), {}, False),
        (("git show origin/main", "fatal: invalid object", 128), {}, False),
        (("curl -s https://github.com/django", "<html>"), {}, True),
        (("curl -s https://github.com/django", "<html>"), {"network": "none"}, False),
        (("curl https://github.com/x | head", "curl: (6) Could not resolve host: github.com"), {}, False),
        (("pip download django || true", "ERROR: No matching distribution found for django"), {}, False),
        (("git clone -q https://github.com/django/django /tmp/d", ""), {}, True),
    ],
)
def test_only_what_can_have_shown_the_fix_disqualifies(step, how, disqualifies):
    assert [flag["is_disqualifying"] for flag in scan(DJANGO, trajectory(step, **how))] == [disqualifies]


@pytest.mark.parametrize(
    ("sandbox", "offline"),
    [
        ({"kind": "docker", "network": "none"}, True),
        ({"kind": "podman", "network": "bridge"}, False),
        ({"kind": "bubblewrap", "grading_network": "host"}, True),
        ({"kind": "apptainer", "grading_network": "host"}, True),
        (settings_of("sandbox=auto").sandbox.model_dump(), True),
        ({"kind": "auto", "docker": {"network": "bridge"}, "bubblewrap": {"kind": "bubblewrap"}}, False),
        ({"kind": "local"}, False),
        ({}, False),
    ],
)
def test_whether_the_agent_had_a_network_follows_from_its_sandbox(sandbox, offline):
    assert has_no_network(sandbox) == offline


def test_a_patch_of_what_decides_any_verdict_is_flagged_and_a_new_test_is_not():
    suspicious = {"test configuration": ["conftest.py"], "test files": ["tests/test_new.py"]}
    [flag] = flags_of(DJANGO, {}, suspicious)
    assert flag == {
        "kind": PATCH,
        "turn": None,
        "evidence": "test configuration: conftest.py",
        "is_disqualifying": True,
    }


@given(
    st.lists(st.sampled_from(["git log --all", "'", '"', "$(", ")", "`", "<<EOF", "EOF", "\n", "|", "\\", "#", "x"]))
)
@example(["cat << \N{SUPERSCRIPT TWO}"])
@example([f"cat << {'5' * 5000}"])
def test_whatever_a_model_writes_is_no_error(parts):
    list(scan(DJANGO, trajectory(" ".join(parts) + " git")))


def test_half_a_character_is_shown_as_a_question_mark():
    [flag] = scan(DJANGO, trajectory("git log --all --grep \ud83d"))
    assert flag["evidence"] == "git log --all --grep '?'"


# ---- the clean score

LOOKED = {"kind": HISTORY, "turn": 3, "evidence": "git log --all", "is_disqualifying": True}
HARMLESS = {**LOOKED, "is_disqualifying": False}


def row(*verdicts: Verdict) -> Row:
    return Row("rl", [Arm("rl", "rl", {f"task-{number}": verdict for number, verdict in enumerate(verdicts)})])


def test_the_clean_score_stands_beside_the_official_one():
    found = row(Verdict("resolved", flags=[LOOKED]), Verdict("resolved", flags=[HARMLESS]), Verdict("unresolved"))
    assert (found.rate.mean, cleaned(found).rate.mean) == (2 / 3, 1 / 3)
    assert list(clean_lines(found)) == ["rl: clean 33.3% [6.1, 79.2], without 1 resolved that a flag can explain"]
    assert list(flag_lines(found.arms[0])) == [
        "rl: 2 trials looked for commits that HEAD does not lead to (2 resolved): task-0, task-1"
    ]


def test_nothing_is_said_where_nothing_was_flagged():
    found = row(Verdict("resolved"), Verdict("unresolved"))
    assert [*clean_lines(found), *flag_lines(found.arms[0])] == []


def test_the_run_keeps_every_flag_and_both_scores():
    kept = integrity([row(Verdict("resolved", flags=[LOOKED]), Verdict("unresolved"))], {})["adapters"]["rl"]
    assert (kept["raw"]["mean"], kept["clean"]["mean"]) == (0.5, 0.0)
    assert kept["flags"] == {"rl": {"task-0": [LOOKED]}}


def test_what_is_not_known_of_contamination_is_said():
    verified = contamination({"identity": {"benchmark.name": "verified"}})
    assert verified.startswith("SWE-bench Verified is public since August 2024")
    assert "is not known here" in contamination({})
