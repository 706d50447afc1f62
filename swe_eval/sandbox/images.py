"""The images of instances: pulled before they are wanted, removed again when the disk fills, known by digest.

500 of SWE-bench Verified's are hundreds of gigabytes, and the hub gives a hundred pulls per six hours to those it does
not know: so a missing image is waited for, and what a run no longer needs makes room for what it does.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from swe_eval.benchmark.instances import Instance
from swe_eval.cache import cache_dir
from swe_eval.errors import SandboxError
from swe_eval.sandbox.sandbox import Completed
from swe_eval.settings import DockerSandbox as DockerSettings

Docker = Callable[..., Completed]
"""``docker(*arguments, timeout=seconds)``."""

PULLS = 3
"""At once, ahead of use."""
AHEAD = 12
"""Images that are pulled before the first of them is wanted."""
SOON = re.compile(r"toomanyrequests|rate limit|429|TLS handshake timeout|i/o timeout|connection re|EOF|50[0234]", re.I)
"""What a registry says that will serve later."""
FIRST_WAIT, LONGEST_WAIT = 5.0, 600.0
"""Seconds before a pull is tried again; each time twice as many."""
GB = 1e9


@dataclass(frozen=True)
class ImagePlan:
    """What a run needs of the engine, before it starts."""

    here: int
    nbytes: int
    """Of those that are here."""
    missing: tuple[str, ...]
    """To be pulled, or built if their task has a Dockerfile."""

    def __str__(self) -> str:
        size = f" ({self.nbytes / GB:.1f} GB)" if self.here else ""
        rest = f", {len(self.missing)} to come, {self.missing[0]} first" if self.missing else ""
        return f"{self.here + len(self.missing)} images: {self.here} here{size}{rest}"


class Images:
    """What the engine has and gets. Thread-safe."""

    def __init__(self, docker: Docker, settings: DockerSettings) -> None:
        self._docker, self._settings = docker, settings
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._in_use: Counter[str] = Counter()
        self._wanted: list[str] = []
        """By trials to come, the next one first."""
        self._changed = threading.Condition()
        self._is_over = threading.Event()
        self.digests: dict[str, str] = {}
        """Of what was used, by name."""

    def plan(self, instances: Sequence[Instance]) -> ImagePlan:
        """What of these is here, in one look."""
        names = [*dict.fromkeys(instance.image for instance in instances)]
        listed = self._docker("images", "--format", "{{.Repository}}:{{.Tag}}", timeout=60).text.split()
        here = [name for name in names if _tagged(name) in listed]
        sizes = self._docker("image", "inspect", "--format", "{{.Size}}", *here, timeout=60).text if here else ""
        missing = [name for name in names if _tagged(name) not in listed]
        return ImagePlan(len(here), sum(int(size) for size in sizes.split() if size.isdecimal()), tuple(missing))

    @contextmanager
    def expecting(self, instances: Sequence[Instance]) -> Iterator[None]:
        """Inside the block, get the images of these ahead of their use, in this order."""
        self._wanted = [instance.image for instance in instances]
        first = {instance.image: instance for instance in reversed(instances)}
        pool = ThreadPoolExecutor(PULLS, thread_name_prefix="images")
        for image in self.plan(instances).missing:
            pool.submit(self._get_ahead, first[image])
        try:
            yield
        finally:
            self._is_over.set()
            with self._changed:
                self._changed.notify_all()
            pool.shutdown(wait=False, cancel_futures=True)

    @contextmanager
    def using(self, instance: Instance) -> Iterator[None]:
        """Have the instance's image in the engine inside the block; it is not removed there.

        Raises:
            SandboxError: it cannot be had; with its name.
        """
        image = instance.image
        with self._changed:
            self._in_use[image] += 1
        try:
            self._ensure(instance)
            yield
        finally:
            with self._changed:
                self._in_use[image] -= 1
                if image in self._wanted:
                    self._wanted.remove(image)
                self._changed.notify_all()
            _Pulled().used(image)

    def _get_ahead(self, instance: Instance) -> None:
        """Not too far: what is pulled long before its use takes the place of what is wanted sooner."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over.is_set() or self._is_next(instance.image))
        if not self._is_over.is_set():
            with suppress(SandboxError):  # the trial that wants it will say so
                self._ensure(instance)

    def _is_next(self, image: str) -> bool:
        return image in [*dict.fromkeys(self._wanted)][:AHEAD] or image not in self._wanted

    def _ensure(self, instance: Instance) -> None:
        with self._locks[instance.image]:
            if self._digest(instance.image):
                return
            if instance.context is not None and (instance.context / "Dockerfile").is_file():
                self._build(instance.image, instance.context)
            else:
                self._make_room()
                self._pull(instance.image)
                _Pulled().add(instance.image)
            self._digest(instance.image)

    def _digest(self, image: str) -> str:
        """Of the registry where it is from one, else of the engine; empty if it is not there."""
        ask = "{{if .RepoDigests}}{{index .RepoDigests 0}}{{else}}{{.Id}}{{end}}"
        found = self._docker("image", "inspect", "--format", ask, image, timeout=60)
        if found.returncode:
            return ""
        self.digests[image] = found.text.strip().rpartition("@")[2]
        return self.digests[image]

    def _build(self, image: str, context: Path) -> None:
        arguments = [f"--build-arg={key}={value}" for key, value in self._settings.build_args.items()]
        command = ["build", "--force-rm", "--tag", image, *arguments, str(context)]
        done = self._docker(*command, timeout=self._settings.start_timeout)
        if done.returncode or done.timed_out:
            raise SandboxError(f"image {image} is missing; docker build: {last_line(done)}")

    def _pull(self, image: str) -> None:
        """Again and again while the registry asks for patience, within ``start_timeout``."""
        deadline, wait = time.monotonic() + self._settings.start_timeout, FIRST_WAIT
        while True:
            done = self._docker("pull", "--quiet", image, timeout=max(1.0, deadline - time.monotonic()))
            if not done.returncode and not done.timed_out:
                return
            late = time.monotonic() + wait > deadline
            if late or not SOON.search(done.text) or self._is_over.wait(wait):
                raise SandboxError(f"image {image} is missing; docker pull: {last_line(done)}")
            wait = min(2 * wait, LONGEST_WAIT)

    def _make_room(self) -> None:
        """While the disk is full, remove what we pulled and nobody uses or wants, the longest unused first."""
        needed, pulled = self._settings.min_free_gb * GB, _Pulled()
        for image in pulled.oldest_first():
            if self._free() >= needed:
                return
            with self._changed:
                is_needed = self._in_use[image] or image in self._wanted
            if not is_needed and self._docker("rmi", image, timeout=300).returncode == 0:
                pulled.forget(image)
        if (free := self._free()) < needed:
            raise SandboxError(
                f"{free / GB:.0f} GB are free where the engine keeps images, and sandbox.min_free_gb="
                f"{self._settings.min_free_gb:g}: make room, or write a smaller one"
            )

    def _free(self) -> float:
        """Bytes; infinite where the engine's disk is not ours to see."""
        root = self._docker("info", "--format", "{{.DockerRootDir}}", timeout=60).text.strip()
        try:
            return float(shutil.disk_usage(root).free)
        except OSError:
            return float("inf")


class _Pulled:
    """The images that runs of ours have pulled, as empty files in the cache, as old as their last use."""

    def __init__(self) -> None:
        self._folder = cache_dir() / "images"

    def add(self, image: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file(image).touch()

    def used(self, image: str) -> None:
        """Take note, if it is one of them."""
        if (file := self._file(image)).is_file():
            file.touch()

    def forget(self, image: str) -> None:
        self._file(image).unlink(missing_ok=True)

    def oldest_first(self) -> list[str]:
        files = sorted(self._folder.glob("*"), key=lambda file: file.stat().st_mtime)
        return [file.name.replace("%", "/") for file in files]

    def _file(self, image: str) -> Path:
        return self._folder / image.replace("/", "%")


def _tagged(image: str) -> str:
    return image if ":" in image.rpartition("/")[2] else f"{image}:latest"


def last_line(done: Completed) -> str:
    """Of what docker said, its advice to read its help left out."""
    said = [
        line for line in done.text.splitlines() if line.strip() and not line.startswith(("See 'docker", "Run 'docker"))
    ]
    return (said or ["no answer in time"])[-1]
