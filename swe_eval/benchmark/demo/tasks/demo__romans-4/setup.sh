#!/bin/bash
# Makes the directory $1 a git repository of `repo/` beside this script: one commit, whose hash task.yaml names.
# Nothing of the caller's (git settings, identity, clock, umask) may reach that hash, so git sees an empty environment.
set -euo pipefail
mkdir -p "$1"
cp -R "$(dirname "$0")/repo/." "$1"
cd "$1"
date='2026-01-05T09:00:00+00:00'
clean_git() {
    env -i PATH="$PATH" HOME=/nonexistent GIT_CONFIG_NOSYSTEM=1 \
        GIT_AUTHOR_DATE="$date" GIT_COMMITTER_DATE="$date" git "$@"
}
clean_git -c init.defaultBranch=main init --quiet --template=
clean_git config core.autocrlf false
clean_git config core.fileMode false
clean_git config user.name 'swe_eval demo'
clean_git config user.email demo@swe-eval.invalid
mkdir -p .git/info
printf '%s\n' __pycache__/ .pytest_cache/ > .git/info/exclude
clean_git add --all
clean_git commit --quiet --message 'Initial commit'
