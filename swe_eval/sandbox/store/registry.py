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
from collections.abc import Iterator
from contextlib import contextmanager
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
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
LIMITS = httpx.Timeout(60.0)
"""Of one read; a layer may take as long as it comes."""


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
        url = f"{self._reference.url}/blobs/{digest}"
        try:
            with self._client.stream("GET", url) as answer:
                _refuse(answer)
                yield answer.iter_raw(1 << 18)
        except httpx.HTTPError as error:
            raise SandboxError(f"{self._reference.host}: connection refused or lost ({error})") from error

    def close(self) -> None:
        """Its connections."""
        self._client.close()

    def _get(self, path: str, accept: tuple[str, ...] = ("*/*",)) -> bytes:
        url, headers = f"{self._reference.url}/{path}", {"Accept": ", ".join(accept)}
        try:
            answer = self._client.get(url, headers=headers)
            is_asked = answer.status_code == 401 and "authorization" not in self._client.headers
            if is_asked and (given := self._authorization(answer.headers.get("www-authenticate", ""))):
                self._client.headers["authorization"] = given
                answer = self._client.get(url, headers=headers)
            _refuse(answer)
        except httpx.HTTPError as error:
            raise SandboxError(f"{self._reference.host}: connection refused or lost ({error})") from error
        return answer.content

    def _authorization(self, challenge: str) -> str:
        """What the registry asks for: the user's name and password, or a token, which anybody may have; or nothing."""
        kept = _credentials(HUB_KEY if self._reference.host == HUB else self._reference.host)
        if not challenge.lower().startswith("bearer "):
            return f"Basic {kept}" if kept else ""
        asked = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        answer = self._client.get(
            asked.pop("realm"), params=asked, headers={"Authorization": f"Basic {kept}"} if kept else {}
        )
        _refuse(answer)
        given = answer.json()
        return f"Bearer {given.get('token') or given['access_token']}"


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
