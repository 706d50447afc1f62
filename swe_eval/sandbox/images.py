"""The images of instances: had before they are wanted, removed again when the disk fills, known by digest.

500 of SWE-bench Verified's are hundreds of gigabytes, and the hub gives a hundred pulls per six hours to those it does
not know: so a missing image is waited for, and what a run no longer needs makes room for what it does. Where they are
kept is a seam: an engine's (``engine.py``), or our own store's (``store/``).
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from swe_eval.benchmark.instances import Instance
from swe_eval.errors import SandboxError

PULLS = 3
"""At once, ahead of use."""
AHEAD = 12
"""Images that are pulled before the first of them is wanted."""
SOON = re.compile(
    r"toomanyrequests|rate limit|429|TLS handshake timeout|i/o timeout|connection re|EOF|50[0234]|no registry answers",
    re.I,
)
"""What a registry says that will serve later, or is said of it."""
FIRST_WAIT, LONGEST_WAIT = 5.0, 600.0
"""Seconds before a pull is tried again; each time twice as many."""
GB = 1e9


class Library(Protocol):
    """Where images are kept. Every method raises SandboxError, with the reason, if it cannot do what it is for."""

    place: str
    """Of its disk, as in "20 GB are free where ..."."""
    advice: str
    """What to write if it cannot make the images of task repos and gets them from a registry; else empty."""

    def sizes(self, images: Sequence[str]) -> Mapping[str, int]:
        """Bytes of those that are here."""

    def digest(self, image: str) -> str:
        """Of the registry where it is from one, else of the image itself; empty if it is not here."""

    def build(self, instance: Instance, timeout: float) -> bool:
        """Make the instance's image; False if it is none to be made here, but pulled."""

    def pull(self, image: str, timeout: float) -> None:
        """Get it from its registry, in one attempt."""

    def held(self, image: str) -> AbstractContextManager[None]:
        """Inside the block it is used, and not removed by anyone who asks; takes note of when that was."""

    def ours(self) -> Mapping[str, float]:
        """Those that runs of ours have pulled, with the seconds since their last use, the longest unused first."""

    def remove(self, image: str) -> bool:
        """False if it is still needed."""

    def free(self) -> float:
        """Bytes on its disk; infinite where that is not ours to see."""


@dataclass(frozen=True)
class ImagePlan:
    """What a run needs of the library, before it starts."""

    here: int
    nbytes: int
    """Of those that are here."""
    missing: tuple[str, ...]
    """To be pulled, or built if their task has a Dockerfile."""
    advice: str
    """About those of task repos, if there are any; see ``Library.advice``."""

    def __str__(self) -> str:
        size = f" ({self.nbytes / GB:.1f} GB)" if self.here else ""
        rest = f", {len(self.missing)} to come, {self.missing[0]} first" if self.missing else ""
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.here + len(self.missing)} images: {self.here} here{size}{rest}{advice}"


class Images:
    """What the library has and gets. Thread-safe."""

    def __init__(self, library: Library, *, start_timeout: float, min_free_gb: float) -> None:
        self.library, self._timeout, self._min_free = library, start_timeout, min_free_gb
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._in_use: Counter[str] = Counter()
        self._wanted: list[str] = []
        """By trials that have not ended, the next one first."""
        self._changed = threading.Condition()
        self._is_over = threading.Event()
        self.digests: dict[str, str] = {}
        """Of what was used, by name."""
        self.say: Callable[[str], None] = lambda line: None
        """Hears what is waited for."""

    def plan(self, instances: Sequence[Instance]) -> ImagePlan:
        """What of these is here, in one look."""
        names = [*dict.fromkeys(instance.image for instance in instances)]
        here = self.library.sizes(names)
        missing = tuple(name for name in names if name not in here)
        is_built = any(instance.dockerfile and instance.image in missing for instance in instances)
        return ImagePlan(len(here), sum(here.values()), missing, self.library.advice if is_built else "")

    @contextmanager
    def expecting(self, instances: Sequence[Instance]) -> Iterator[None]:
        """Inside the block, get the images of these trials ahead of their use, in this order."""
        self._wanted = [instance.image for instance in instances]
        first = {instance.image: instance for instance in reversed(instances)}
        pool = ThreadPoolExecutor(PULLS, thread_name_prefix="images")
        for image in self.plan(instances).missing:
            pool.submit(self._get_ahead, first[image])
        try:
            yield
        finally:
            self._end(pool)

    @contextmanager
    def using(self, instance: Instance) -> Iterator[None]:
        """Have the instance's image here inside the block; it is not removed there.

        Raises:
            SandboxError: it cannot be had; with its name.
        """
        image = instance.image
        with self._changed:
            self._in_use[image] += 1
        try:
            with self.library.held(image):
                self.ensure(instance)
                yield
        finally:
            with self._changed:
                self._in_use[image] -= 1

    def done_with(self, instance: Instance) -> None:
        """One of the trials that were expected has ended; what none wants any more may be removed."""
        with self._changed, suppress(ValueError):
            self._wanted.remove(instance.image)
            self._changed.notify_all()

    def get(self, instances: Sequence[Instance]) -> Iterator[tuple[str, str]]:
        """Have all of them here, in this order, and none removed for another: each with why not, or an empty text."""
        first = {instance.image: instance for instance in reversed(instances)}
        self._wanted = [instance.image for instance in instances]
        pool = ThreadPoolExecutor(PULLS, thread_name_prefix="images")
        try:
            yield from pool.map(self._tried, [first[image] for image in dict.fromkeys(self._wanted)])
        finally:
            self._end(pool)

    def ensure(self, instance: Instance) -> None:
        """Have the instance's image here.

        Raises:
            SandboxError: it cannot be had; with its name.
        """
        with self._locks[instance.image]:
            if self._digest(instance.image):
                return
            if not self._built(instance):
                self._make_room()
                self._pull(instance.image)
            self._digest(instance.image)

    def _end(self, pool: ThreadPoolExecutor) -> None:
        """Nobody waits for its pulls any more."""
        self._is_over.set()
        with self._changed:
            self._changed.notify_all()
        pool.shutdown(wait=False, cancel_futures=True)

    def _tried(self, instance: Instance) -> tuple[str, str]:
        try:
            self.ensure(instance)
        except SandboxError as error:
            return instance.image, str(error)
        return instance.image, ""

    def _get_ahead(self, instance: Instance) -> None:
        """Not too far: what is pulled long before its use takes the place of what is wanted sooner."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over.is_set() or self._is_next(instance.image))
        if not self._is_over.is_set():
            with suppress(SandboxError):  # the trial that wants it will say so
                self.ensure(instance)

    def _is_next(self, image: str) -> bool:
        return image in [*dict.fromkeys(self._wanted)][:AHEAD] or image not in self._wanted

    def _digest(self, image: str) -> str:
        if found := self.library.digest(image):
            self.digests[image] = found
        return found

    def _built(self, instance: Instance) -> bool:
        try:
            return self.library.build(instance, self._timeout)
        except SandboxError as error:
            raise SandboxError(f"image {instance.image} is missing; {error}") from error

    def _pull(self, image: str) -> None:
        """Again and again while the registry asks for patience, within ``start_timeout``."""
        deadline, wait = time.monotonic() + self._timeout, FIRST_WAIT
        while True:
            try:
                return self.library.pull(image, max(1.0, deadline - time.monotonic()))
            except SandboxError as error:
                is_late = time.monotonic() + wait > deadline
                if is_late or not SOON.search(str(error)):
                    raise SandboxError(f"image {image} is missing; {error}") from error
                self.say(f"image {image}: {error}; tried again in {wait:.0f} s")
                if self._is_over.wait(wait):
                    raise SandboxError(f"image {image} is missing; {error}") from error
            wait = min(2 * wait, LONGEST_WAIT)

    def _make_room(self) -> None:
        """While the disk is full, remove what we pulled and nobody uses or wants, the longest unused first."""
        needed = self._min_free * GB
        for image in self.library.ours():
            if self.library.free() >= needed:
                return
            with self._changed:
                is_needed = self._in_use[image] or image in self._wanted
            if not is_needed:
                self.library.remove(image)
        if (free := self.library.free()) < needed:
            raise SandboxError(
                f"{free / GB:.0f} GB are free where {self.library.place}, and sandbox.min_free_gb="
                f"{self._min_free:g}: make room, or write a smaller one"
            )


class FromImages:
    """What backends whose sandboxes start from images have in common (see ``Sandboxes``)."""

    images: Images
    chosen = ""

    @property
    def digests(self) -> Mapping[str, str]:
        """See ``Sandboxes.digests``."""
        return self.images.digests

    def plan(self, instances: Sequence[Instance]) -> str:
        """See ``Sandboxes.plan``."""
        return str(self.images.plan(instances))

    @contextmanager
    def expecting(self, instances: Sequence[Instance], say: Callable[[str], None]) -> Iterator[None]:
        """See ``Sandboxes.expecting``."""
        if self.chosen:
            say(self.chosen)
        if (planned := self.images.plan(instances)).missing:
            say(str(planned))
        self.images.say = say
        with self.images.expecting(instances):
            yield

    def done_with(self, instance: Instance) -> None:
        """See ``Sandboxes.done_with``."""
        self.images.done_with(instance)
