"""Images in a directory: every layer unpacked once, under the hash of its content, and used by many sandboxes at once.

    VERSION                the format
    images/<name>.json     digest, configuration and layers of an image; as old as its last use
    layers/<sha256>/       files/, and their sum; it appears by a rename, whole
    leases/                who unpacks a layer or removes layers (see lease.py)
    in_use/<name>/         a file per sandbox
    new/                   what is being made, or was when somebody was killed

A record is written before its layers are there: an image is here when all of its layers are, and a pull that was killed
goes on where it was. The directory may be shared by many machines, or be filled on one and read-only on others.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from swe_eval.benchmark.instances import Instance
from swe_eval.errors import SandboxError, UserError
from swe_eval.run_dir import PART, write_json, write_text
from swe_eval.sandbox import owner
from swe_eval.sandbox.removal import IN_USERNS, remove_tree
from swe_eval.sandbox.store import unpack
from swe_eval.sandbox.store.lease import age, lease
from swe_eval.sandbox.store.packing import unpacked
from swe_eval.sandbox.store.registry import understood
from swe_eval.sandbox.store.source import REGISTRY, SourceImage, opened
from swe_eval.sandbox.writing import room, writing

VERSION = "1"
FOLDERS = ("images", "layers", "leases", "in_use", "new")
LAYERS = 3
"""Of an image, fetched at once."""
BUILT_ELSEWHERE = "if no registry has them, build them with Docker and write sandbox.source=docker-daemon:"
FORGOTTEN = 86400.0
"""Seconds that another machine may take to make something, or to use it: a sandbox ends by then."""


@dataclass(frozen=True)
class Record:
    """An image of the store."""

    image: str
    digest: str
    env: tuple[str, ...]
    """``KEY=value``, of the image's configuration."""
    layers: tuple[str, ...]
    """sha256 of their uncompressed archives, in hexadecimal, the lowest first."""


class Sum(NamedTuple):
    """Of a layer's files, as ``unpack.py`` adds them up."""

    sum: str
    nbytes: int


class Store:
    """See ``Library``, and the module."""

    place = "the image store is"

    def __init__(self, root: Path, source: str) -> None:
        """Raises UserError if the directory is not one of ours, or of another version."""
        self.root, self._source = root.absolute(), source
        self.advice = BUILT_ELSEWHERE if source.startswith(REGISTRY) else ""
        self.layers = self.root / "layers"
        version = self.root / "VERSION"
        try:
            if not version.is_file():
                if self.root.is_dir() and not all(_is_ours(each.name) for each in self.root.iterdir()):
                    raise UserError(f"sandbox.store={root}: is neither empty nor an image store; write another one")
                for folder in FOLDERS:
                    (self.root / folder).mkdir(parents=True, exist_ok=True)
                write_text(version, VERSION)
            if (found := version.read_text()) != VERSION:
                raise UserError(f"sandbox.store={root}: has format {found}, not {VERSION}; write another one")
        except OSError as error:
            raise UserError(f"sandbox.store={root}: {error.strerror}; write a directory that can be written") from None

    def sizes(self, images: Sequence[str]) -> dict[str, int]:
        """See ``Library.sizes``; what images share counts for the first of them."""
        found: dict[str, int] = {}
        counted: set[str] = set()
        for image in images:
            if record := self.record(image):
                found[image] = sum(self._sum(layer).nbytes for layer in {*record.layers} - counted)
                counted |= {*record.layers}
        return found

    def digest(self, image: str) -> str:
        """See ``Library.digest``."""
        record = self.record(image)
        return record.digest if record else ""

    def record(self, image: str) -> Record | None:
        """Of an image that is here, with all of its layers."""
        found = self._read(self._file(image))
        return found if found and all((self.layers / layer).is_dir() for layer in found.layers) else None

    def build(self, instance: Instance, timeout: float) -> bool:
        """Without an engine nothing is built."""
        return False

    def pull(self, image: str, timeout: float) -> None:
        """See ``Library.pull``: fetch and unpack the layers that are not here yet."""
        self.tidy()
        with self._writing(), opened(self._source, image, self._fresh(), timeout) as source:
            self._pull(source, image, timeout)

    @contextmanager
    def held(self, image: str) -> Iterator[None]:
        """See ``Library.held``; for other processes and machines, too."""
        folder = self.root / "in_use" / _quoted(image)
        mark = folder / secrets.token_hex(8)
        with suppress(OSError):  # a store that is only read has nobody who removes anything
            folder.mkdir(exist_ok=True)
            mark.write_text(owner.this_process())
            os.utime(self._file(image))
        try:
            yield
        finally:
            with suppress(OSError):
                mark.unlink()
                os.utime(self._file(image))

    def ours(self) -> dict[str, float]:
        """See ``Library.ours``; those that are not whole are among them."""
        by_age = []
        for file in (self.root / "images").glob("[!.]*.json"):
            with suppress(FileNotFoundError):
                if record := self._read(file):
                    by_age.append((time.time() - file.stat().st_mtime, record.image))
        return {image: age for age, image in sorted(by_age, reverse=True)}

    def remove(self, image: str) -> bool:
        """See ``Library.remove``; layers go when no image has them.

        Whoever starts a sandbox makes its mark and then reads the record, and here it is the other way round: so one
        of the two sees the other.
        """
        with self._writing(), lease(self.root / "leases" / "records", patience=600):
            record = self._read(self._file(image))
            self._file(image).unlink(missing_ok=True)
            if record and self._is_held(image):
                write_json(self._file(image), asdict(record))
                return False
            self._remove_layers()
        return True

    def free(self) -> float:
        """See ``Library.free``."""
        return room(self.root)

    def verify(self, image: str) -> list[str]:
        """The layers of an image that are not what they were when their hash was compared."""
        record = self._read(self._file(image))
        return [layer for layer in record.layers if not self._is_sound(layer)] if record else []

    def repair(self, layer: str) -> bool:
        """Forget a layer, so that it is fetched again; False if a sandbox stands on it."""
        with self._writing(), lease(self.root / "leases" / "records", patience=600):
            place, gone = self.layers / layer, self._fresh()
            if not place.is_dir():
                return True
            place.rename(gone)
            if is_used := any(layer in record.layers and self._is_held(record.image) for record in self._records()):
                gone.rename(place)
            else:
                remove_tree(gone)
        return not is_used

    def tidy(self) -> None:
        """Remove what processes that are gone were making, if it can be written here."""
        for left in (self.root / "new").iterdir():
            maker = left.name.partition("@")[2].replace("%", "/")
            with suppress(OSError):
                if owner.is_gone(maker) or age(left) > FORGOTTEN:
                    remove_tree(left)

    def lower(self, record: Record) -> str:
        """overlayfs's ``lowerdir``, seen from ``layers``: the highest first, and none of them twice."""
        return ":".join(f"{layer}/files" for layer in dict.fromkeys(reversed(record.layers)))

    def _pull(self, source: SourceImage, image: str, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        with understood():
            manifest, digest = source.manifest()
            config = source.config(manifest["config"]["digest"])
            layers = tuple(each.removeprefix("sha256:") for each in config["rootfs"]["diff_ids"])
            env = tuple(config.get("config", {}).get("Env") or ())
            blobs = dict(zip(layers, (each["digest"] for each in manifest["layers"]), strict=True))
        with lease(self.root / "leases" / "records", timeout):
            write_json(self._file(image), asdict(Record(image, digest, env, layers)))
        with ThreadPoolExecutor(LAYERS) as pool:
            for _ in pool.map(lambda layer: self._get(source, layer, blobs[layer], deadline), blobs):
                pass

    def _get(self, source: SourceImage, layer: str, blob: str, deadline: float) -> None:
        if (self.layers / layer).is_dir():
            return
        with lease(self.root / "leases" / layer, max(1.0, deadline - time.monotonic())):
            if (self.layers / layer).is_dir():
                return
            fresh = self._fresh()
            fresh.mkdir()
            try:
                with source.blob(blob) as packed:
                    write_json(fresh / "sum.json", _unpack(packed, fresh / "files", layer, deadline)._asdict())
                self._put(fresh, layer)
            finally:
                if fresh.exists():
                    remove_tree(fresh)

    def _put(self, fresh: Path, layer: str) -> None:
        """Whoever held the lease at the same time may have been faster."""
        try:
            fresh.rename(self.layers / layer)
        except OSError:
            if not (self.layers / layer).is_dir():
                raise

    def _writing(self) -> AbstractContextManager[None]:
        return writing("sandbox.store", self.root)

    def _fresh(self) -> Path:
        """What is made there is told to be ours, and removed by others if we are killed."""
        return self.root / "new" / f"{secrets.token_hex(4)}@{owner.this_process().replace('/', '%')}"

    def _is_sound(self, layer: str) -> bool:
        if not (self.layers / layer).is_dir():
            return False
        done = subprocess.run(_unpacker("--sum", self.layers / layer / "files"), capture_output=True, text=True)
        return done.returncode == 0 and done.stdout.split()[0] == self._sum(layer).sum

    def _sum(self, layer: str) -> Sum:
        try:
            return Sum(**json.loads((self.layers / layer / "sum.json").read_text()))
        except (OSError, ValueError, TypeError):
            return Sum("", 0)

    def _is_held(self, image: str) -> bool:
        for mark in (self.root / "in_use" / _quoted(image)).glob("*"):
            with suppress(OSError):
                if not owner.is_gone(mark.read_text()) and age(mark) < FORGOTTEN:
                    return True
                mark.unlink()
        return False

    def _remove_layers(self) -> None:
        needed = {layer for record in self._records() for layer in record.layers}
        for layer in self.layers.iterdir():
            if layer.name not in needed:
                self._discard(layer)

    def _discard(self, layer: Path) -> None:
        """At once, and then at leisure."""
        gone = self._fresh()
        with suppress(FileNotFoundError):
            layer.rename(gone)
            remove_tree(gone)

    def _records(self) -> list[Record]:
        return [record for image in self.ours() if (record := self._read(self._file(image)))]

    def _read(self, file: Path) -> Record | None:
        try:
            found: dict[str, Any] = json.loads(file.read_text())
            return Record(found["image"], found["digest"], tuple(found["env"]), tuple(found["layers"]))
        except (OSError, ValueError, LookupError):
            return None

    def _file(self, image: str) -> Path:
        return self.root / "images" / f"{_quoted(image)}.json"


def _is_ours(name: str) -> bool:
    """Whether it is what another process that makes the same store has by now, or had when it was killed."""
    return name in (*FOLDERS, "VERSION") or (name.startswith(".VERSION.") and name.endswith(PART))


def _unpack(packed: Iterable[bytes], folder: Path, layer: str, deadline: float) -> Sum:
    """Files of a layer's archive, if that is the one with this hash."""
    unpacker = subprocess.Popen(
        _unpacker(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=False
    )
    assert unpacker.stdin
    hashed, said, is_whole = hashlib.sha256(), b"", False
    try:
        with suppress(BrokenPipeError):
            for piece in unpacked(packed):
                hashed.update(piece)
                unpacker.stdin.write(piece)
                if time.monotonic() > deadline:
                    raise SandboxError("sandbox.start_timeout was over before all of it was here")
            is_whole = True
        said, _ = unpacker.communicate()
    finally:
        unpacker.kill()
        unpacker.wait()
    is_another = hashed.hexdigest() != layer
    if unpacker.returncode and not (is_whole and is_another):
        last = (said.decode("utf-8", "replace").strip().splitlines() or ["without a word"])[-1]
        raise SandboxError(f"layer {layer[:12]} cannot be unpacked: {last}")
    if is_another:
        raise SandboxError(f"layer {layer[:12]} came with another content: EOF, or another's")
    total, size = said.split()
    return Sum(total.decode(), int(size))


def _unpacker(*arguments: str | Path) -> list[str]:
    return [*IN_USERNS, sys.executable, "-I", "-S", unpack.__file__, *map(str, arguments)]


def _quoted(image: str) -> str:
    return image.replace("/", "%")
