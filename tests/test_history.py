"""An agent's repository holds no future: everything a clone can hide a fix in is gone, and the rest is as it was."""

from __future__ import annotations

import pytest
from sandbox_fixtures import CONTAINERS

from swe_eval.errors import SandboxError
from swe_eval.sandbox import history
from swe_eval.sandbox.history import scrub

AUTHOR = "git config user.name a; git config user.email a@b; git tag v1"
COMMIT = "echo the fix > fix.txt; git add fix.txt; git commit -qm fix"
BACK = "git reset -q --hard HEAD^"
MARK = "cd .git/objects/pack; touch $(echo *.pack | sed s/pack$/{}/)"
# how a clone can hold a later commit; the base commit is HEAD again in the end
HIDDEN = {
    "branch": f"git checkout -q -b later; {COMMIT}; git checkout -q -",
    "tag": f"{COMMIT}; git tag v2; {BACK}",
    "annotated tag": f"{COMMIT}; git tag -a -m v2 v2; {BACK}",
    "tag of a file": "git tag answer $(echo the fix | git hash-object -w --stdin)",
    "remote": f"{COMMIT}; git clone -q --bare . ../origin; {BACK}; git remote add o ../origin; git fetch -q o",
    "stash": "echo the fix > fix.txt; git add fix.txt; git stash -q",
    "reflog": f"{COMMIT}; {BACK}",
    "unreachable": "echo the fix | git hash-object -w --stdin",
    "note": "git notes add -m 'the fix'",
    "detached HEAD": f"git checkout -q --detach; {COMMIT}; git branch later; {BACK}",
    "pack": f"{COMMIT}; git tag v2; {BACK}; git gc -q",
    "kept pack": f"{COMMIT}; git gc -q; {BACK}; {MARK.format('keep')}",
    "partial clone": f"{COMMIT}; git gc -q; {BACK}; {MARK.format('promisor')}",
}
STATE = "git rev-parse HEAD; git symbolic-ref HEAD; git status -s; git describe; git diff --cached; git log --format=%H"
OBJECTS = "git cat-file --batch-all-objects --batch-check='%(objectname)' | while read id; do git cat-file -p $id; done"


@pytest.fixture(params=["local", *(kind for kind in CONTAINERS if kind.values[0] in ("docker", "bubblewrap"))])
def kind(request):
    """The others' sandboxes are made of the same images, in an engine or in a store."""
    return request.param


@pytest.fixture
def said(sandbox):
    """``said(command)``: what it prints."""

    def said(command: str) -> str:
        done = sandbox.run(command, timeout=60)
        assert done.returncode in (0, 128), done.text
        return done.text

    said(AUTHOR)
    return said


@pytest.mark.parametrize("where", HIDDEN)
def test_no_later_commit_is_left_anywhere(sandbox, said, where):
    said(HIDDEN[where])
    before = said(STATE)
    assert "the fix" in said(OBJECTS)
    assert scrub(sandbox).objects_removed > 0
    assert "the fix" not in said(OBJECTS)
    assert said("git for-each-ref --no-merged HEAD; git remote; git stash list; find .git -name logs") == ""
    assert said(f"git fsck --strict; {STATE}") == before


def test_a_repository_without_a_future_is_left_as_it_is(sandbox, said):
    scrub(sandbox)
    before = said(f"find .git -type f | sort; {STATE}")
    found = scrub(sandbox)
    assert (found.refs_removed, found.objects_removed) == (0, 0)
    assert said(f"find .git -type f | sort; {STATE}") == before


def test_what_is_staged_is_not_lost(sandbox, said):
    said(f"{HIDDEN['branch']}; echo staged >> calc.py; git add calc.py")
    before = said(STATE)
    scrub(sandbox)
    assert said(STATE) == before


def test_the_agent_can_go_on_committing_and_stashing(sandbox, said):
    said(HIDDEN["branch"])
    scrub(sandbox)
    assert "fix" in said(f"{COMMIT}; echo more >> calc.py; git stash -q; git stash pop -q; git gc -q; git reflog")


def test_taking_too_long_is_ours(sandbox, monkeypatch):
    monkeypatch.setattr(history, "LIMIT", 0.001)
    with pytest.raises(
        SandboxError, match=r"^taking later commits out of the repository took more than 0\.001 seconds$"
    ):
        scrub(sandbox)


def test_a_broken_repository_is_ours(sandbox, said):
    said("rm -rf .git/objects/*")
    with pytest.raises(SandboxError, match=r"^later commits could not be taken out of the repository: .*commit"):
        scrub(sandbox)
