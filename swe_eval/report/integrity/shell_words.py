"""Which simple commands a bash command line runs, as words.

This is not a shell, but it knows enough of the grammar not to take a here-document that is written to a file for
commands, and to find commands that are quoted, piped, substituted, wrapped (``timeout 9 ...``) or given to ``bash -c``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

_HEREDOC = re.compile(
    r"(?<!<)<<(?!<)-?\s*(['\"]?)([A-Za-z_]\w*)\1([^\n]*)\n(.*?)(?:^[ \t]*\2[ \t]*$|\Z)", re.DOTALL | re.MULTILINE
)
_COMMENT = re.compile(r"^[ \t]*#.*$", re.MULTILINE)
_SUBSTITUTION = re.compile(r"\$\(((?:[^()]|\([^()]*\))*)\)|`([^`]+)`")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=.*", re.DOTALL)
_PYTHON = re.compile(r"(?:python|pypy)[\d.]*")
_SHELL = re.compile(r"(?:ba|da|z)?sh")
_ENDS = set(";|&\n(){}") | {"then", "do", "else", "elif", "if", "while", "until", "!", "fi", "done"}
_WRAPPERS = {"sudo", "env", "time", "nice", "nohup", "command", "exec", "stdbuf", "timeout", "xargs", "eval"}
DEPTH = 4
"""How deeply nested shells are followed."""


@dataclass(frozen=True)
class Command:
    """A simple command."""

    words: tuple[str, ...]
    """The program's name without its directory, and its arguments, without redirections."""
    writes: tuple[str, ...] = ()
    """Files that it is redirected into."""
    code: str = ""
    """Python code that it is given to run."""

    def __str__(self) -> str:
        return shlex.join(self.words) + "".join(f" > {shlex.quote(path)}" for path in self.writes)


def commands_of(text: str, depth: int = DEPTH) -> Iterator[Command]:
    """Every simple command, in the order of the text; if a part cannot be parsed, those of the rest."""
    bodies: list[str] = []
    flat = _HEREDOC.sub(lambda found: _kept(found, bodies), text.replace("\\\n", " "))
    for words in _simple(_COMMENT.sub("", flat)):  # an apostrophe in a comment quotes nothing
        yield from _command(words, bodies, depth)


class GitCommand(NamedTuple):
    """A git command without git's own options; empty for any other program."""

    subcommand: str
    words: Sequence[str]


def git(command: Command) -> GitCommand:
    """Read a command as one of git's."""
    program, *words = command.words
    while words and words[0].startswith("-"):
        words = words[2:] if words[0] in ("-C", "-c", "--git-dir", "--work-tree") else words[1:]
    return GitCommand(words[0], words[1:]) if program == "git" and words else GitCommand("", [])


def _kept(found: re.Match[str], bodies: list[str]) -> str:
    """Replace a here-document by the number of its body; the rest of its first line stays."""
    bodies.append(found[4])
    return f" <<{len(bodies) - 1} {found[3]}\n"


def _simple(text: str) -> Iterator[list[str]]:
    words: list[str] = []
    in_comment = False
    for token in _tokens(text):
        is_end = set(token) <= _ENDS or token in _ENDS
        in_comment = "\n" not in token and (in_comment or (token.startswith("#") and not is_end))
        if in_comment:
            continue
        if is_end:
            if words:
                yield words
            words = []
        else:
            words.append(token)
    if words:
        yield words


def _tokens(text: str) -> list[str]:
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";|&\n()<>")
    lexer.whitespace, lexer.commenters, lexer.whitespace_split = " \t\r", "", True
    try:
        return list(lexer)
    except ValueError:  # a quote that does not end
        return re.findall(r"[;|&\n()<>]+|[^\s;|&()<>]+", text.replace("'", " ").replace('"', " "))


def _command(words: list[str], bodies: list[str], depth: int) -> Iterator[Command]:
    if depth:
        for inner in (found[1] or found[2] for word in words for found in _SUBSTITUTION.finditer(word)):
            yield from commands_of(inner, depth - 1)
    redirected = _redirected(words, bodies)
    words = _unwrapped(redirected.words)
    if not words:
        return
    name = PurePosixPath(words[0]).name
    code = "\n".join([*_after("-c", words), *redirected.reads])
    if depth and _SHELL.fullmatch(name):
        yield from commands_of(code, depth - 1)
    yield Command((name, *words[1:]), tuple(redirected.writes), code if _PYTHON.fullmatch(name) else "")


class _Redirected(NamedTuple):
    """The words of a command, the files that it is redirected into, the here-documents that it reads."""

    words: list[str]
    writes: list[str]
    reads: list[str]


def _redirected(words: Iterable[str], bodies: Sequence[str]) -> _Redirected:
    kept, writes, reads = found = _Redirected([], [], [])
    rest = iter(words)
    for word in rest:
        if word == "<<":
            number = next(rest, "")
            reads += [body for index, body in enumerate(bodies) if str(index) == number]
        elif set(word) <= set("<>&"):
            target = next(rest, "")
            is_file = ">" in word and target and not target.isdigit() and not target.startswith("/dev/")
            writes += [target] if is_file else []
            if kept and kept[-1] in ("0", "1", "2"):  # 2> file
                kept.pop()
        else:
            kept.append(word)
    return found


def _unwrapped(words: list[str]) -> list[str]:
    """Without assignments before the program, and without programs that only run another one."""
    while words:
        if _ASSIGNMENT.fullmatch(words[0]):
            words = words[1:]
        elif PurePosixPath(words[0]).name in _WRAPPERS:
            words = words[1:]
            while words and re.fullmatch(r"-.*|\d+(\.\d+)?[smhd]?|[A-Za-z_]\w*=.*", words[0], re.DOTALL):
                words = words[1:]
        else:
            break
    return words


def _after(flag: str, words: list[str]) -> list[str]:
    """The word after a flag, which may be combined with others as in ``-lc``; empty if there is none."""
    for at, word in enumerate(words[:-1]):
        if re.fullmatch(rf"-\w*{flag[1:]}", word):
            return [words[at + 1]]
    return []
