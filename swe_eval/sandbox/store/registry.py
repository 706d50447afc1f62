"""A registry's images over HTTP: the manifest and the layers that are wanted, and no others.

500 images of SWE-bench Verified have most of their layers in common; ``skopeo copy`` would fetch all of them for each.
The interface is the OCI distribution specification's.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from swe_eval.errors import SandboxError

HUB, HUB_API = "docker.io", "registry-1.docker.io"
HUB_KEY = "https://index.docker.io/v1/"
"""What Docker's configuration calls the hub."""
INDEX = ("application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json")
MANIFEST = ("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
Headers = dict[str, str]
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
LIMITS = httpx.Timeout(60.0)
"""Of one read; a layer may take as long as it comes."""


@contextmanager
def understood() -> Iterator[None]:
    """Inside the block, an answer is read.

    Raises:
        SandboxError: it is none of a registry's, but a proxy's page, say; later there may be another.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise SandboxError(f"no registry answers so ({type(error).__name__}: {error}); a proxy may") from error


@dataclass(frozen=True)
class Reference:
    """An image's name in parts."""

    host: str
    repository: str
    tag: str
    """Or its digest."""

    @classmethod
    def parse(cls, image: str) -> Reference:
        """As Docker reads it: without a host it is the hub's, without a tag the latest."""
        host, slash, path = image.partition("/")
        if not slash or not ({".", ":"} & set(host) or host == "localhost"):
            host, path = HUB, image
        name, at, digest = path.partition("@")
        name, _, tag = name.partition(":")
        if host == HUB and "/" not in name:
            name = f"library/{name}"
        return cls(host, name, digest if at else tag or "latest")

    @property
    def url(self) -> str:
        """Of the repository. A registry on this machine has no certificate: Docker asks it without one, too."""
        scheme = "http" if re.match(r"(localhost|127\.[\d.]+)(:|$)", self.host) else "https"
        return f"{scheme}://{HUB_API if self.host == HUB else self.host}/v2/{self.repository}"


class RegistryImage:
    """One image in its registry. Every method raises SandboxError, with what the registry said."""

    def __init__(self, image: str) -> None:
        self._reference = Reference.parse(image)
        self._client = httpx.Client(timeout=LIMITS, follow_redirects=True)
        self._shown: Headers = {}
        self._lock = threading.Lock()

    def manifest(self) -> tuple[dict[str, Any], str]:
        """The manifest for this machine, and the digest of what the tag stands for, be it an index of several."""
        data = self._get(f"manifests/{self._reference.tag}", INDEX + MANIFEST)
        digest, found = _digest(data), json.loads(data)
        if manifests := found.get("manifests"):
            machine = MACHINES.get(platform.machine(), platform.machine())
            fitting = [each["digest"] for each in manifests if each.get("platform", {}).get("architecture") == machine]
            if not fitting:
                raise SandboxError(f"{self._reference.repository} has no image for {machine}")
            found = json.loads(checked(self._get(f"manifests/{fitting[0]}", MANIFEST), fitting[0]))
        return found, digest

    def config(self, digest: str) -> dict[str, Any]:
        """The image's configuration, which names the layers."""
        found: dict[str, Any] = json.loads(checked(self._get(f"blobs/{digest}"), digest))
        return found

    @contextmanager
    def blob(self, digest: str) -> Iterator[Iterator[bytes]]:
        """A layer as it is sent, in pieces."""
        with self._asked(f"blobs/{digest}") as answer:
            yield answer.iter_raw(1 << 18)

    def close(self) -> None:
        """Its connections."""
        self._client.close()

    def _get(self, path: str, accept: tuple[str, ...] = ("*/*",)) -> bytes:
        with self._asked(path, accept) as answer:
            return answer.read()

    @contextmanager
    def _asked(self, path: str, accept: tuple[str, ...] = ("*/*",)) -> Iterator[httpx.Response]:
        """The answer, whose content is still to be read; asked for anew where a name or a fresh token is wanted."""
        url, headers, shown = f"{self._reference.url}/{path}", {"Accept": ", ".join(accept)}, self._shown
        try:
            with ExitStack() as stack:
                answer = stack.enter_context(self._client.stream("GET", url, headers=headers | shown))
                if answer.status_code == 401 and (other := self._instead_of(shown, answer)):
                    answer = stack.enter_context(self._client.stream("GET", url, headers=headers | other))
                _refuse(answer)
                yield answer
        except httpx.HTTPError as error:
            raise SandboxError(f"{self._reference.host}: connection refused or lost ({error})") from error

    def _instead_of(self, shown: Headers, refused: httpx.Response) -> Headers:
        """What to show after a refusal; nothing if there is nothing else. The hub's tokens last five minutes."""
        with self._lock:  # layers come at once, and one new token is enough for all
            if self._shown == shown:
                self._shown = self._authorization(refused.headers.get("www-authenticate", ""))
            return self._shown if self._shown != shown else {}

    @understood()
    def _authorization(self, challenge: str) -> Headers:
        """What the registry asks for: the user's name and password, or a token, which anybody may have; or nothing."""
        kept = _credentials(HUB_KEY if self._reference.host == HUB else self._reference.host)
        basic = {"Authorization": f"Basic {kept}"} if kept else {}
        if not challenge.lower().startswith("bearer "):
            return basic
        asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        answer = self._client.get(asked.pop("realm"), params=asked, headers=basic)
        _refuse(answer)
        given = answer.json()
        return {"Authorization": f"Bearer {given.get('token') or given['access_token']}"}


def checked(data: bytes, digest: str) -> bytes:
    """The data, if this is its digest."""
    if _digest(data) != digest:
        raise SandboxError(f"{digest} is not the digest of what came: EOF, or another's")
    return data


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _refuse(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    answer.read()
    try:
        said = answer.json()["errors"][0]
        text = f"{said.get('code', '')}: {said.get('message', '')}"
    except (ValueError, LookupError, TypeError, AttributeError):
        text = answer.reason_phrase
    raise SandboxError(f"{answer.url.host} answers {answer.status_code} {text.lower()}")


def _credentials(registry: str) -> str:
    """Name and password as ``docker login`` or ``podman login`` keep them; empty if there are none."""
    folder = os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker"
    files = [os.environ.get("REGISTRY_AUTH_FILE"), f"{os.environ.get('XDG_RUNTIME_DIR')}/containers/auth.json"]
    for file in [*files, Path(folder) / "config.json"]:
        try:
            found = json.loads(Path(file or os.devnull).read_text())["auths"][registry]["auth"]
            return str(found) if base64.b64decode(found) else ""
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return ""
