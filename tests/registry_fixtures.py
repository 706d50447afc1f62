"""A real registry (Debian's docker-registry) on loopback, and images of a few files in it. No engine takes part."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import zstandard
from test_process import eventually

from swe_eval.serving.supervised import free_port

LOGIN = "me:$2b$05$abcdefghijklmnopqrstuulzd.YqjLDl8lvpSmVj3De/fioSBHnUa"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PACKERS = {"gzip": partial(gzip.compress, mtime=0), "zstd": zstandard.compress}


@dataclass(frozen=True)
class Registry:
    """Where it is, and where its files are."""

    port: int
    folder: Path
    work: Path

    def publish(self, name: str, *layers: Mapping[str, str | None], packed: str = "gzip") -> str:
        """The name of an image of these layers, the lowest first: contents by path; a folder if it ends with ``/``."""
        layout = self.work / name
        blobs = layout / "blobs" / "sha256"
        blobs.mkdir(parents=True)

        def blob(data: bytes, kind: str) -> dict[str, object]:
            digest = hashlib.sha256(data).hexdigest()
            (blobs / digest).write_bytes(data)
            return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

        archives = [_archive(layer) for layer in layers]
        diff_ids = [f"sha256:{hashlib.sha256(archive).hexdigest()}" for archive in archives]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/bin", "A=b=c"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": blob(json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": [
                blob(PACKERS[packed](archive), f"application/vnd.oci.image.layer.v1.tar+{packed}")
                for archive in archives
            ],
        }
        index = {"schemaVersion": 2, "manifests": [blob(json.dumps(manifest).encode(), MANIFEST)]}
        (layout / "index.json").write_text(json.dumps(index))
        (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        target = f"127.0.0.1:{self.port}/{name}:latest"
        push = ["skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"]
        subprocess.run([*push, "--dest-creds=me:hush", f"oci:{layout}", f"docker://{target}"], check=True)
        return target


def _archive(layer: Mapping[str, str | None]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for path, content in layer.items():
            entry = tarfile.TarInfo(path.rstrip("/"))
            if path.endswith("/"):
                entry.type, entry.mode = tarfile.DIRTYPE, int(content or "755", 8)
                tar.addfile(entry)
            else:
                data = (content or "").encode()
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def serve(folder: Path, *, login: bool = False) -> Iterator[Registry]:
    """One with its files below the folder; with a login, ``me`` and ``hush``."""
    port = free_port("127.0.0.1")
    config = f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/files}}}}\n"
    config += f"http: {{addr: 127.0.0.1:{port}}}\n"
    if login:
        (folder / "htpasswd").write_text(LOGIN)
        config += f"auth: {{htpasswd: {{realm: test, path: {folder}/htpasswd}}}}\n"
    (folder / "config.yml").write_text(config)
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(["docker-registry", "serve", folder / "config.yml"], stdout=quiet, stderr=quiet)
    try:
        assert eventually(lambda: _answers(port), 60)
        yield Registry(port, folder / "files", folder / "layouts")
    finally:
        server.terminate()
        server.wait()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/", timeout=60).status_code in (200, 401)
    except httpx.HTTPError:
        return False


class Tokens(ThreadingHTTPServer):
    """A registry's door, as the hub has one: whoever asks gets a token, and each is good for two requests."""

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), _Door)
        self.behind, self.given = behind, 0
        self.left: dict[str, int] = {}


class _Door(BaseHTTPRequestHandler):
    server: Tokens

    def do_GET(self) -> None:
        if self.path.startswith("/token?service=hub&scope=repository"):
            self.server.given += 1
            self.server.left[f"Bearer {self.server.given}"] = 2
            return self._answer(httpx.Response(200, json={"token": str(self.server.given)}))
        shown = self.headers["Authorization"] or ""
        if self.server.left.get(shown):
            self.server.left[shown] -= 1
            there = f"http://127.0.0.1:{self.server.behind}{self.path}"
            return self._answer(httpx.get(there, headers={"Accept": self.headers["Accept"]}, timeout=60))
        realm = f"http://127.0.0.1:{self.server.server_port}/token"
        challenge = f'Bearer realm="{realm}",service="hub",scope="repository:any:pull"'
        return self._answer(httpx.Response(401, headers={"WWW-Authenticate": challenge}))

    def _answer(self, answer: httpx.Response) -> None:
        self.send_response(answer.status_code)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def tokens(registry: Registry) -> Iterator[Tokens]:
    """The door to ``registry`` that wants tokens."""
    with Tokens(registry.port) as door:
        threading.Thread(target=door.serve_forever, daemon=True).start()
        yield door
        door.shutdown()


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Open to all."""
    yield from serve(tmp_path_factory.mktemp("registry"))


@pytest.fixture
def closed_registry(tmp_path: Path) -> Iterator[Registry]:
    """For ``me`` alone."""
    (tmp_path / "closed").mkdir()
    yield from serve(tmp_path / "closed", login=True)
