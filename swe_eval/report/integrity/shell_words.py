"""What a bash command line runs: its simple commands as words, without what is mere text.

No shell: enough of its grammar that a here-document which writes a file is not taken for commands, and that what is
quoted, piped, substituted, wrapped (``timeout 9 ...``) or given to ``bash -c`` is found.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

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
"""How deep shells in shells are followed."""


@dataclass(frozen=True)
class Command:
    """A simple command."""

    words: tuple[str, ...]
    """The program's name without its directory, and its arguments; redirections are left out."""
    writes: tuple[str, ...] = ()
    """Files that it is redirected into."""
    code: str = ""
    """The Python that it is given to run."""

    def __str__(self) -> str:
        return shlex.join(self.words) + "".join(f" > {shlex.quote(path)}" for path in self.writes)


def commands_of(text: str, depth: int = DEPTH) -> Iterator[Command]:
    """Every simple command, in the order of the text; of what cannot be read, what can be."""
    bodies: list[str] = []
    flat = _HEREDOC.sub(lambda found: _kept(found, bodies), text.replace("\\\n", " "))
    for words in _simple(_COMMENT.sub("", flat)):  # an apostrophe in a comment quotes nothing
        yield from _command(words, bodies, depth)


def git(command: Command) -> tuple[str, list[str]]:
    """(subcommand of git, its arguments), without git's own options; nothing of another program."""
    words = list(command.words)
    if words[0] != "git":
        return "", []
    words = words[1:]
    while words and words[0].startswith("-"):
        words = words[2:] if words[0] in ("-C", "-c", "--git-dir", "--work-tree") else words[1:]
    return (words[0], words[1:]) if words else ("", [])


def _kept(found: re.Match[str], bodies: list[str]) -> str:
    """A here-document as a word that names its body; what follows on its first line stays."""
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
    words, writes, given = _without_redirections(words, bodies)
    words = _unwrapped(words)
    if not words:
        return
    name = PurePosixPath(words[0]).name
    inline = _after("-c", words)
    if depth and _SHELL.fullmatch(name):
        yield from commands_of("\n".join([*inline, *given]), depth - 1)
    code = "\n".join([*inline, *given]) if _PYTHON.fullmatch(name) else ""
    yield Command((name, *words[1:]), tuple(writes), code)


def _without_redirections(words: list[str], bodies: list[str]) -> tuple[list[str], list[str], list[str]]:
    """(words, files that are written, here-documents that are read)."""
    kept: list[str] = []
    writes: list[str] = []
    given: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "<<":
            number = next(rest, "")
            given += [bodies[int(number)]] if number.isdigit() and int(number) < len(bodies) else []
        elif set(word) <= set("<>&"):
            target = next(rest, "")
            is_file = ">" in word and target and not target.isdigit() and not target.startswith("/dev/")
            writes += [target] if is_file else []
            if kept and kept[-1] in ("0", "1", "2"):  # 2> file
                kept.pop()
        else:
            kept.append(word)
    return kept, writes, given


def _unwrapped(words: list[str]) -> list[str]:
    """Without assignments before the program and programs that run another."""
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
    """The word after a flag, which may be one of several letters: ``-lc``."""
    for at, word in enumerate(words[:-1]):
        if re.fullmatch(rf"-\w*{flag[1:]}", word):
            return [words[at + 1]]
    return []
