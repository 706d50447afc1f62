"""The agent's copy of a repository has no future: what HEAD does not lead to is taken out of it, and looked for again.

Images were made from clones, and a clone holds the fix: in later commits, tags, other branches, reflogs, or in objects
that only ``git fsck`` finds (SWE-bench #465). Tags of ancestors stay, because versions are made from them. For grading
the image is left as it is.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from swe_eval.errors import SandboxError
from swe_eval.sandbox.sandbox import Sandbox

LIMIT = 600.0
"""Seconds that it may take."""

# ``git gc`` will not do: it keeps what lies in a partial clone's packs, or in packs with a .keep file. So the objects
# to stay are packed anew, and every other file of the store is removed.
SCRUB = r"""
set -euo pipefail
export LC_ALL=C
unreachable() {
    git rev-list --objects --all --indexed-objects HEAD | cut -d ' ' -f 1 | sort > reachable &&
        git cat-file --batch-all-objects --batch-check='%(objectname)' | comm -13 reachable - | wc -l
}
refs() { git for-each-ref --format='delete %(refname)' "$@" | sort; }
cd "$(git rev-parse --absolute-git-dir)"
git remote | while read -r remote; do git remote remove "$remote"; done
foreign=$(comm -23 <(refs) <(refs --merged HEAD))
[ "$foreign" ] && git update-ref --stdin <<< "$foreign"
rm -rf logs worktrees rr-cache ORIG_HEAD FETCH_HEAD MERGE_HEAD CHERRY_PICK_HEAD REVERT_HEAD REBASE_HEAD AUTO_MERGE
found=$(unreachable)
if [ "$found" != 0 ]; then
    kept=$(git -c pack.packSizeLimit=0 pack-objects -q --revs --all --indexed-objects objects/pack/pack <<< HEAD)
    find objects -type f ! -name "pack-$kept.*" -delete
    [ "$(unreachable)" = 0 ]
fi
rm reachable
echo "$(printf %s "$foreign" | grep -c '') $found"
"""


@dataclass(frozen=True)
class Scrubbed:
    """What an agent could have looked up and now cannot."""

    refs_removed: int
    objects_removed: int
    seconds: float


def scrub(sandbox: Sandbox) -> Scrubbed:
    """Leave in the repository what HEAD, its ancestors' tags and the index lead to, and nothing else.

    Raises:
        SandboxError: it did not work, or took more than ``LIMIT`` seconds.
    """
    started = time.monotonic()
    done = sandbox.run(SCRUB, timeout=LIMIT)
    if done.timed_out:
        raise SandboxError(f"taking later commits out of the repository took more than {LIMIT:g} seconds")
    if done.returncode:
        raise SandboxError(f"later commits could not be taken out of the repository: {done.text.strip()[-500:]}")
    refs, objects = map(int, done.text.splitlines()[-1].split())
    return Scrubbed(refs, objects, round(time.monotonic() - started, 2))
