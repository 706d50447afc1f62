"""Images of a registry: planned, pulled ahead of use, waited for, removed when the disk is full."""

from __future__ import annotations

import io
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from registry_fixtures import MANIFEST, Registry
from test_process import eventually

from swe_eval.benchmark.instances import Instance
from swe_eval.errors import SandboxError
from swe_eval.sandbox import images as module
from swe_eval.sandbox.docker import DockerSandboxes
from swe_eval.sandbox.images import Images
from swe_eval.sandbox.store.source import opened

pytestmark = pytest.mark.docker


def docker(*arguments: str, data: bytes = b"") -> str:
    return subprocess.run(["docker", *arguments], input=data, capture_output=True, check=True).stdout.decode()


def archive_of(name: str) -> bytes:
    """A file of that name, empty."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    return layer.getvalue()


@dataclass
class Guarded:
    """A registry, and a door to it through which images are pulled."""

    behind: Registry
    door: int = 0
    refusals: int = 0
    """So many requests are refused at the door from now on."""

    def publish(self, name: str) -> Instance:
        """An instance whose image, of a single file, is here and not in the engine."""
        pushed = self.behind.publish(f"pulled-{name}", {name: ""})
        return Instance({"instance_id": name, "image": pushed.replace(str(self.behind.port), str(self.door))})


@pytest.fixture(scope="module")
def registry(registry: Registry) -> Iterator[Guarded]:
    """Behind a door that can be shut."""
    guarded = Guarded(registry)
    door = ThreadingHTTPServer(("127.0.0.1", 0), _door(guarded))
    guarded.door = door.server_port
    threading.Thread(target=door.serve_forever, daemon=True).start()
    yield guarded
    listed = docker("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    docker("rmi", "--force", *(image for image in listed if image.startswith(f"127.0.0.1:{guarded.door}/")))
    door.shutdown()


def _door(registry: Guarded) -> type[BaseHTTPRequestHandler]:
    class Door(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if registry.refusals > 0 and "/manifests/" in self.path:
                registry.refusals -= 1
                given = httpx.Response(429, json={"errors": [{"code": "TOOMANYREQUESTS", "message": "later"}]})
            else:
                wanted = [("Accept", each) for each in self.headers.get_all("Accept", ["*/*"])]  # in any order
                given = httpx.request(
                    self.command, f"http://127.0.0.1:{registry.behind.port}{self.path}", headers=wanted
                )
            self.send_response(given.status_code)
            for key, value in given.headers.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(given.content)

        def log_message(self, *_: object) -> None:
            pass

        do_HEAD = do_GET  # noqa: N815

    return Door


@pytest.fixture
def images(settings, monkeypatch, tmp_path) -> Callable[..., Images]:
    """``images(overrides...)``: those of a run, with a cache of the test's own."""
    monkeypatch.setenv("SWE_EVAL_CACHE", str(tmp_path / "cache"))
    return lambda *overrides: DockerSandboxes(settings("sandbox=docker", *overrides).sandbox, "test").images


def use(images: Images, instance: Instance) -> None:
    with images.using(instance):
        pass


def is_here(instance: Instance) -> bool:
    return bool(docker("images", "--quiet", instance.image))


def test_the_plan_tells_what_is_here_and_what_is_to_come(images, registry):
    one, two = (registry.publish(name) for name in ("plan-1", "plan-2"))
    use(images(), one)
    assert str(images().plan([one, two, two])) == f"2 images: 1 here (0.0 GB), 1 to come, {two.image} first"


def test_they_are_pulled_in_the_order_of_use_and_not_too_far_ahead(images, registry, monkeypatch):
    monkeypatch.setattr(module, "AHEAD", 2)
    monkeypatch.setattr(module, "PULLS", 1)
    wanted = [registry.publish(f"ahead-{number}") for number in range(4)]
    ahead = images()
    with ahead.expecting(wanted):
        assert eventually(lambda: all(map(is_here, wanted[:2])), 60)
        time.sleep(0.5)
        assert [is_here(each) for each in wanted] == [True, True, False, False]
        use(ahead, wanted[0])
        ahead.done_with(wanted[0])
        assert eventually(lambda: is_here(wanted[2]), 60)
        assert not is_here(wanted[3])


def test_a_registry_that_asks_for_patience_is_given_it(images, registry, monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT", 0.1)
    late = registry.publish("late")
    registry.refusals = 3
    use(images(), late)
    assert is_here(late)
    assert registry.refusals == 0


def test_patience_ends_with_the_time_for_a_start(images, registry, monkeypatch):
    monkeypatch.setattr(module, "FIRST_WAIT", 61)
    never = registry.publish("never")
    registry.refusals = 1000
    try:
        with pytest.raises(SandboxError, match=rf"^image {never.image} is missing; docker pull: .*toomanyrequests"):
            use(images("sandbox.start_timeout=60"), never)
    finally:
        registry.refusals = 0


def test_it_is_known_by_the_digest_of_its_registry(images, registry):
    one = registry.publish("digest")
    known = images()
    use(known, one)
    told = httpx.get(
        f"http://127.0.0.1:{registry.behind.port}/v2/pulled-digest/manifests/latest",
        headers={"Accept": MANIFEST},
        timeout=60,
    )
    assert known.digests == {one.image: told.headers["docker-content-digest"]}


def test_when_the_disk_is_full_what_we_pulled_makes_room_and_nothing_else(images, registry):
    """Not what was in the engine before, and not what this run still wants."""
    over, wanted, new = (registry.publish(name) for name in ("over", "wanted", "new"))
    theirs = registry.publish("theirs")
    docker("pull", theirs.image)
    for each in (theirs, over, wanted):
        use(images(), each)
    full = images("sandbox.min_free_gb=1e9")
    with (
        full.expecting([over, wanted]),
        pytest.raises(SandboxError, match=r"GB are free where the engine keeps images, and sandbox\.min_free_gb="),
    ):
        full.done_with(over)
        use(full, new)
    assert [is_here(each) for each in (theirs, over, wanted, new)] == [True, False, True, False]


def test_what_another_run_removes_meanwhile_is_no_trouble(images, tmp_path):
    (tmp_path / "cache/images").mkdir(parents=True)
    (tmp_path / "cache/images/gone").symlink_to("nowhere")
    assert images().library.ours() == {}


def test_a_cache_that_cannot_be_written_keeps_no_image_away(images, registry, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/images").write_text("")
    use(images(), registry.publish("unwritten"))


def test_what_is_in_the_engine_needs_neither_registry_nor_room(images, registry):
    here = registry.publish("here")
    docker("pull", here.image)
    use(images("sandbox.min_free_gb=1e9"), here)


def test_an_archive_whose_layers_are_links_is_told(tmp_path):
    """Docker writes one when an image and what was made from it are saved together."""
    base, made, archive = "swe_eval-test-base:latest", "swe_eval-test-made:latest", tmp_path / "both.tar"
    docker("import", "-", base, data=archive_of("file"))
    docker("build", "--tag", made, "-", data=f"FROM {base}\nCOPY --from={base} /file /copy".encode())
    try:
        docker("save", "--output", str(archive), base, made)
        with pytest.raises(
            SandboxError, match=r"^skopeo copy \S+: a layer is a link .*; save each in a file of its own"
        ):
            for image in (base, made):  # whichever Docker took second
                opened(f"docker-archive:{archive}:", image, tmp_path / "copied", 60).__enter__()
    finally:
        docker("rmi", made, base)
