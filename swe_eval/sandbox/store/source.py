"""Where the store gets images from: a registry, or whatever else skopeo reads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from swe_eval.errors import SandboxError
from swe_eval.sandbox.capture import capture
from swe_eval.sandbox.sandbox import Completed
from swe_eval.sandbox.store.registry import RegistryImage, checked

REGISTRY = "docker://"
PIECE = 1 << 18


class SourceImage(Protocol):
    """One image where it comes from. Every method raises SandboxError."""

    def manifest(self) -> tuple[dict[str, Any], str]:
        """Its manifest, and the digest that it is known by."""

    def config(self, digest: str) -> dict[str, Any]:
        """Its configuration."""

    def blob(self, digest: str) -> AbstractContextManager[Iterator[bytes]]:
        """A layer in pieces, packed as it was."""


def opened(source: str, image: str, folder: Path, timeout: float) -> AbstractContextManager[SourceImage]:
    """The image at ``source``, to which its name is appended as skopeo writes it: ``docker://mirror.site/``.

    Raises:
        SandboxError: skopeo is needed and cannot find it. What it copies is in ``folder``, which is there meanwhile.
    """
    if source.startswith(REGISTRY):
        return closing(RegistryImage(f"{source.removeprefix(REGISTRY)}{image}"))
    return _copied(f"{source}{image}", folder, timeout)


@contextmanager
def _copied(name: str, folder: Path, timeout: float) -> Iterator[SourceImage]:
    copy = ["skopeo", "--insecure-policy", "copy", "--quiet", name, f"dir:{folder}"]
    folder.mkdir()
    try:
        done = capture([*_ending_with_us(), *copy], timeout=timeout)
        if done.returncode or done.timed_out:
            raise SandboxError(f"skopeo copy {name}: {_why(done)}")
        yield _Copied(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _ending_with_us() -> list[str]:
    """What makes the kernel kill a command when the thread dies that started it; setpriv of Red Hat 8 cannot."""
    setpriv = ["setpriv", "--pdeathsig", "KILL", "--"]
    try:
        return [] if capture([*setpriv, "true"], timeout=60).returncode else setpriv
    except SandboxError:
        return []


def _why(done: Completed) -> str:
    """What skopeo says, or what it means: of a layer that is a link in an archive, it compares the link's own size."""
    said = (done.text.strip().splitlines() or ["no answer in time"])[-1]
    if "Size mismatch" not in said:
        return said
    one = "docker save --output FILE IMAGE"
    return f"a layer is a link to that of another image in the same file; save each in a file of its own ({one})"


class _Copied:
    """What skopeo calls ``dir:``, a file per blob."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def manifest(self) -> tuple[dict[str, Any], str]:
        """An image of an engine or an archive has no registry's digest: its configuration's stands for it."""
        found: dict[str, Any] = json.loads((self._folder / "manifest.json").read_text())
        return found, found["config"]["digest"]

    def config(self, digest: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(checked(self._file(digest).read_bytes(), digest))
        return found

    @contextmanager
    def blob(self, digest: str) -> Iterator[Iterator[bytes]]:
        with self._file(digest).open("rb") as file:
            yield iter(lambda: file.read(PIECE), b"")

    def _file(self, digest: str) -> Path:
        return self._folder / digest.removeprefix("sha256:")
