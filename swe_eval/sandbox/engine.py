"""The images in an engine, Docker's or Podman's, through its command."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

from swe_eval.benchmark.instances import Instance
from swe_eval.cache import cache_dir
from swe_eval.errors import SandboxError
from swe_eval.sandbox.sandbox import Completed
from swe_eval.sandbox.store.registry import Reference
from swe_eval.sandbox.writing import room

Engine = Callable[..., Completed]
"""``engine(*arguments, timeout=seconds)``."""


class EngineLibrary:
    """See ``Library``."""

    place = "the engine keeps images"
    advice = ""

    def __init__(self, engine: Engine, name: str, root: str, build_args: Mapping[str, str]) -> None:
        """``root``: what ``info --format`` calls the directory of the images."""
        self._engine, self._name, self._root, self._build_args = engine, name, root, build_args
        self._pulled = _Pulled(cache_dir() / ("images" if name == "docker" else f"images-{name}"))

    def sizes(self, images: Sequence[str]) -> dict[str, int]:
        """See ``Library.sizes``; two questions, however many they are."""
        listed = self._engine("images", "--format", "{{.Repository}}:{{.Tag}}", timeout=60).text.split()
        names = {short(name) for name in listed}
        here = [name for name in images if short(name) in names]
        asked = self._engine("image", "inspect", "--format", "{{.Size}}", *here, timeout=60).text if here else ""
        sizes = [int(size) for size in asked.split() if size.isdecimal()]
        return dict.fromkeys(here, 0) | dict(zip(here, sizes, strict=False))

    def digest(self, image: str) -> str:
        """See ``Library.digest``."""
        ask = "{{if .RepoDigests}}{{index .RepoDigests 0}}{{else}}{{.Id}}{{end}}"
        found = self._engine("image", "inspect", "--format", ask, image, timeout=60)
        return "" if found.returncode else found.text.split()[-1].rpartition("@")[2]

    def build(self, instance: Instance, timeout: float) -> bool:
        """See ``Library.build``; a task of a task repo has a Dockerfile."""
        if not instance.dockerfile:
            return False
        arguments = [f"--build-arg={key}={value}" for key, value in self._build_args.items()]
        command = ["build", "--force-rm", "--tag", instance.image, *arguments, str(instance.dockerfile.parent)]
        self._do(f"{self._name} build", *command, timeout=timeout)
        return True

    def pull(self, image: str, timeout: float) -> None:
        """See ``Library.pull``."""
        self._do(f"{self._name} pull", "pull", "--quiet", full(image), timeout=timeout)
        self._pulled.add(image)

    @contextmanager
    def held(self, image: str) -> Iterator[None]:
        """The engine itself does not remove what a container uses."""
        try:
            yield
        finally:
            self._pulled.used(image)

    def ours(self) -> dict[str, float]:
        """See ``Library.ours``."""
        return self._pulled.oldest_first()

    def remove(self, image: str) -> bool:
        """See ``Library.remove``."""
        if self._engine("rmi", image, timeout=300).returncode:
            return False
        self._pulled.forget(image)
        return True

    def free(self) -> float:
        """See ``Library.free``."""
        try:
            return room(self._folder)
        except (OSError, SandboxError):  # not to be seen from here, or the engine is away
            return float("inf")

    @cached_property
    def _folder(self) -> str:
        return last_line(self._do(f"{self._name} info", "info", "--format", f"{{{{{self._root}}}}}", timeout=60))

    def _do(self, what: str, *arguments: str, timeout: float) -> Completed:
        done = self._engine(*arguments, timeout=timeout)
        if done.returncode or done.timed_out:
            raise SandboxError(f"{what}: {last_line(done)}")
        return done


class _Pulled:
    """The images that runs of ours have pulled, as empty files in the cache, as old as their last use.

    In a cache that is full or cannot be written none is noted: they stay.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, image: str) -> None:
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file(image).touch()

    def used(self, image: str) -> None:
        """Take note, if it is one of them."""
        with suppress(OSError):
            if (file := self._file(image)).is_file():
                file.touch()

    def forget(self, image: str) -> None:
        with suppress(OSError):
            self._file(image).unlink()

    def oldest_first(self) -> dict[str, float]:
        by_age = []
        for file in self._folder.glob("*"):
            with suppress(FileNotFoundError):  # another run has just removed it
                by_age.append((time.time() - file.stat().st_mtime, file.name))
        return {name.replace("%", "/"): age for age, name in sorted(by_age, reverse=True)}

    def _file(self, image: str) -> Path:
        return self._folder / image.replace("/", "%")


def full(image: str) -> str:
    """With its registry, which Podman does not guess."""
    found = Reference.parse(image)
    return f"{found.host}/{found.repository}{'@' if ':' in found.tag else ':'}{found.tag}"


def short(image: str) -> str:
    """As ``full``, also for an image that Podman has built and calls this machine's."""
    return full(image.removeprefix("localhost/"))


def last_line(done: Completed) -> str:
    """Of what the engine's command said, its advice to read its help left out."""
    said = [
        line for line in done.text.splitlines() if line.strip() and not line.startswith(("See 'docker", "Run 'docker"))
    ]
    return (said or ["no answer in time"])[-1]
