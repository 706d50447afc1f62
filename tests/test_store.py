"""Images without an engine: fetched from a real registry, unpacked once per layer, shared, checked, removed."""

from __future__ import annotations

import base64
import gzip
import json
import multiprocessing
import os
import re
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from signal import SIGINT, pthread_kill
from threading import Thread

import pytest
from conftest import DEMO_IMAGES
from registry_fixtures import PACKERS
from test_process import eventually
from test_shell import runs_here

from swe_eval.benchmark.instances import Instance
from swe_eval.errors import SandboxError, UserError
from swe_eval.images import main
from swe_eval.run_dir import PART
from swe_eval.sandbox import images as images_module
from swe_eval.sandbox import owner
from swe_eval.sandbox.bubblewrap import BubblewrapSandboxes
from swe_eval.sandbox.images import Images
from swe_eval.sandbox.node import USERNS
from swe_eval.sandbox.store import Store
from swe_eval.sandbox.store import lease as lease_module
from swe_eval.sandbox.store.lease import DEAD, age, lease
from swe_eval.sandbox.store.packing import PIECE, unpacked
from swe_eval.sandbox.store.registry import Reference

pytestmark = pytest.mark.bubblewrap

BASE = {"etc/": None, "etc/old": "old", "etc/kept": "kept", "opt/": None, "opt/a": "a"}
TOP = {"etc/.wh.old": "", "opt/": None, "opt/.wh..wh..opq": "", "opt/b": "b", "locked/": "000", "locked/in": "in"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", "docker://")


def pull(store: Store, image: str) -> None:
    store.pull(image, 600)


def images(monkeypatch, capsys, *arguments: str) -> tuple[int, list[str]]:
    """Exit code and lines of ``python -m swe_eval.images``."""
    monkeypatch.setattr("sys.argv", ["images", *arguments, "sandbox=bubblewrap"])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().out.splitlines()


def gone() -> str:
    """The name of a process that has ended."""
    process = subprocess.Popen(["sleep", "60"])
    name = owner.name_of(process.pid)
    process.kill()
    process.wait()
    return name


def files(store: Store, image: str, tmp_path: Path) -> dict[str, str]:
    """What a sandbox of the image sees."""
    record = store.record(image)
    assert record
    target = tmp_path / "mounted"
    for name in ("upper", "work", "root"):
        (target / name).mkdir(parents=True, exist_ok=True)
    script = """
        cd "$1" && mount -t overlay overlay "$3/root" \\
            -o "lowerdir=$2,upperdir=$3/upper,workdir=$3/work,userxattr" && cd "$3/root" &&
        find . -type f -exec sh -c 'echo "$1 $(cat "$1")"' sh {} ';'
    """
    command = [*USERNS, "sh", "-c", script, "sh", str(store.layers), store.lower(record), str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(line.removeprefix("./").split(" ") for line in sorted(done.stdout.splitlines()))


def test_an_image_is_its_layers_one_over_the_other(store, registry, tmp_path):
    """What a layer removes or replaces is not seen, and a folder that nobody may enter is no obstacle."""
    image = registry.publish("over", BASE, TOP)
    pull(store, image)
    assert files(store, image, tmp_path) == {"etc/kept": "kept", "opt/b": "b", "locked/in": "in"}


def test_layers_may_be_packed_by_zstd(store, registry, tmp_path):
    image = registry.publish("zstd", BASE, TOP, packed="zstd")
    pull(store, image)
    assert files(store, image, tmp_path) == {"etc/kept": "kept", "opt/b": "b", "locked/in": "in"}


@pytest.mark.parametrize("packing", sorted(PACKERS))
class TestPacking:
    def test_what_is_packed_in_parts_is_all_there(self, packing):
        """As parallel packers write it: members, or frames."""
        pack = PACKERS[packing]
        packed = pack(b"one") + pack(b"") + pack(b"two")
        assert b"".join(unpacked([packed[:5], b"", packed[5:]])) == b"onetwo"

    def test_a_little_that_becomes_much_is_never_in_memory_whole(self, packing):
        packed = PACKERS[packing](bytes(200_000_000))
        assert len(packed) < PIECE
        tracemalloc.start()
        size = sum(len(piece) for piece in unpacked([packed]))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size == 200_000_000
        assert peak < 10 * PIECE

    def test_damage_is_told(self, packing):
        packed = PACKERS[packing](bytes(range(256)) * 4000)
        with pytest.raises(SandboxError, match=r"^a layer is damaged: EOF "):
            list(unpacked([packed[:9], b"\xff" * 999]))


def test_a_record_holds_digest_and_environment(store, registry):
    image = registry.publish("record", BASE)
    pull(store, image)
    index = json.loads((registry.work / "record" / "index.json").read_text())
    record = store.record(image)
    assert (record.digest, record.env) == (index["manifests"][0]["digest"], ("PATH=/bin", "A=b=c"))


def test_a_layer_that_images_share_comes_once(store, registry):
    one, two = registry.publish("one", BASE, TOP), registry.publish("two", BASE, {"x": "y"})
    pull(store, one)
    shared = store.layers / store.record(one).layers[0]
    before = shared.stat().st_ino
    pull(store, two)
    assert shared.stat().st_ino == before
    assert len(list(store.layers.iterdir())) == 3
    sizes = store.sizes([one, two])
    assert sizes[one] > sizes[two] > 0


@pytest.mark.parametrize("content", [gzip.compress(b"\0" * 10240), b"<html>"], ids=["layer", "page"])
def test_a_layer_of_another_content_is_refused(store, registry, content):
    name = f"damaged-{len(content)}"
    image = registry.publish(name, {"x": name})
    pushed = (registry.work / name / "blobs/sha256").iterdir()
    layer = next(blob for blob in pushed if blob.read_bytes().startswith(b"\x1f\x8b"))
    blobs = registry.folder / "docker/registry/v2/blobs/sha256"
    (blobs / layer.name[:2] / layer.name / "data").write_bytes(content)
    with pytest.raises(SandboxError, match="came with another content"):
        pull(store, image)
    assert store.record(image) is None
    assert list((store.root / "new").iterdir()) == []


def test_much_that_cannot_be_unpacked_is_told_in_a_line(store, registry):
    """As a full disk has it: tar says so for every file."""
    image = registry.publish("full", {"no-folder": "", **{f"no-folder/{number}": "" for number in range(2000)}})
    with pytest.raises(SandboxError, match=r"cannot be unpacked: tar: no-folder/1999: Cannot open: Not a directory$"):
        pull(store, image)
    assert list((store.root / "new").iterdir()) == []


def _pull_in_another_process(root: Path, image: str, source: str = "docker://") -> None:
    pull(Store(root, source), image)


def test_many_processes_may_want_the_same_image_at_once(store, registry):
    image = registry.publish("wanted", *({str(number): "x" * 100} for number in range(6)))
    spawn = multiprocessing.get_context("spawn")
    pulls = [spawn.Process(target=_pull_in_another_process, args=(store.root, image)) for _ in range(3)]
    for each in pulls:
        each.start()
    for each in pulls:
        each.join()
    assert [each.exitcode for each in pulls] == [0, 0, 0]
    assert store.record(image) and store.verify(image) == []
    assert list((store.root / "new").iterdir()) == list((store.root / "leases").iterdir()) == []


def test_a_pull_that_was_killed_goes_on_where_it_was(store, registry):
    image = registry.publish("killed", BASE, TOP)
    pull(store, image)
    store.repair(store.record(image).layers[1])
    (store.root / "new" / f"0000@{gone().replace('/', '%')}").mkdir()
    assert (store.record(image), store.sizes([image])) == (None, {})
    pull(store, image)
    assert store.record(image)
    assert list((store.root / "new").iterdir()) == []


def test_a_pull_through_skopeo_that_is_killed_leaves_nothing(store, calc):
    spawn = multiprocessing.get_context("spawn")
    pulling = spawn.Process(target=_pull_in_another_process, args=(store.root, calc.image, DEMO_IMAGES))
    pulling.start()
    assert eventually(lambda: [*(store.root / "new").glob("*/*")], 120)
    (copied,) = (store.root / "new").iterdir()
    pulling.kill()
    pulling.join()
    command = f"skopeo --insecure-policy copy --quiet {DEMO_IMAGES}{calc.image} dir:{copied}"
    assert eventually(lambda: not runs_here(command), 60)
    store.tidy()
    assert list((store.root / "new").iterdir()) == []


def test_what_is_removed_takes_its_own_layers_along_and_no_others(store, registry):
    one, two = registry.publish("mine", BASE, TOP), registry.publish("yours", BASE)
    pull(store, one)
    pull(store, two)
    assert store.remove(one)
    assert (store.record(one), store.verify(two)) == (None, [])
    assert [layer.name for layer in store.layers.iterdir()] == [*store.record(two).layers]


def test_what_another_process_uses_is_not_removed(store, registry):
    image = registry.publish("used", BASE)
    pull(store, image)
    with store.held(image):
        assert not Store(store.root, "docker://").remove(image)
        assert store.record(image)
    assert store.remove(image)


def test_a_mark_of_a_process_that_is_gone_holds_nothing(store, registry):
    image = registry.publish("marked", BASE)
    pull(store, image)
    mark = store.root / "in_use" / image.replace("/", "%") / "0"
    mark.parent.mkdir(exist_ok=True)
    mark.write_text(gone())
    assert store.remove(image)


def test_damage_is_found_and_repaired(store, registry, capsys, monkeypatch):
    image = registry.publish("verified", BASE, TOP)
    pull(store, image)
    files = store.layers / store.record(image).layers[0] / "files"
    (files / "etc" / "kept").write_text("kopt")

    def verify() -> tuple[int, str]:
        code, said = images(monkeypatch, capsys, "verify", f"sandbox.store={store.root}")
        return code, said[-1]

    assert verify() == (1, "0 images are what they were when they came, 1 are not")
    pull(store, image)
    assert verify() == (0, "1 images are what they were when they came, 0 are not")


def test_a_damaged_layer_is_not_taken_from_under_a_sandbox(store, registry, capsys, monkeypatch):
    image = registry.publish("stood-on", BASE)
    pull(store, image)
    (layer,) = store.record(image).layers
    (store.layers / layer / "files/etc/kept").write_text("kopt")
    with store.held(image):
        code, said = images(monkeypatch, capsys, "verify", f"sandbox.store={store.root}")
    line = f"{image}: 1 layers are damaged or missing; a run uses it: verify again when that is over"
    assert (code, said[0]) == (1, line)
    assert (store.layers / layer / "files/etc/kept").is_file()
    assert store.repair(layer)
    assert store.record(image) is None


def test_a_store_that_others_have_filled_needs_no_registry_and_is_not_written_to(settings, registry, tmp_path):
    image = registry.publish("filled", BASE)
    root = tmp_path / "filled"
    pull(Store(root, "docker://"), image)
    for folder in (root, *root.iterdir()):
        folder.chmod(0o555) if folder.is_dir() else None
    try:
        backend = BubblewrapSandboxes(
            settings("sandbox=bubblewrap", f"sandbox.store={root}", "sandbox.source=docker://127.0.0.1:1/").sandbox, "x"
        )
        with backend.images.using(Instance({"image": image})):
            assert backend.plan([Instance({"image": image})]).startswith("1 images: 1 here")
    finally:
        for folder in (root, *root.iterdir()):
            folder.chmod(0o755) if folder.is_dir() else None


def test_a_store_that_cannot_be_written_is_told(store, registry, monkeypatch, capsys):
    image = registry.publish("unwritable", BASE)
    pull(store, image)
    store.root.joinpath("leases").chmod(0o555)
    line = rf"^sandbox\.store={store.root}: Permission denied$"
    for write in (lambda: pull(store, image), lambda: store.remove(image)):
        with pytest.raises(SandboxError, match=line):
            write()
    assert store.record(image)


def test_the_command_fills_a_store_tells_what_is_in_it_and_empties_it(monkeypatch, capsys, tmp_path):
    where = [f"sandbox.store={tmp_path / 'store'}", f"sandbox.source={DEMO_IMAGES}", "benchmark=demo"]
    one = "benchmark.instance_ids=[demo__calc-1]"
    code, said = images(monkeypatch, capsys, "pull", *where, one)
    assert (code, said[0].partition(",")[0]) == (0, "1 images: 0 here")
    assert said[1].startswith("[1] swebench/sweb.eval.x86_64.demo_1776_calc-1:latest sha256:")
    assert images(monkeypatch, capsys, "list", *where)[1][-1].endswith("GB are free")
    assert images(monkeypatch, capsys, "prune", "--days", "0", *where)[1][0].startswith(
        "1 images removed, 0 are in use"
    )
    assert list((tmp_path / "store/layers").iterdir()) == []


def test_the_command_says_which_image_cannot_be_had(monkeypatch, capsys, tmp_path):
    where = [f"sandbox.store={tmp_path / 'store'}", "sandbox.source=docker://127.0.0.1:1/", "sandbox.start_timeout=1"]
    code, said = images(monkeypatch, capsys, "pull", *where, "benchmark.instance_ids=[demo__calc-1]")
    assert code == 1
    assert said[1].startswith("[1] image swebench/sweb.eval.x86_64.demo_1776_calc-1:latest is missing; 127.0.0.1:1: ")


@pytest.mark.parametrize(("name", "content", "line"), [("x", "", "is neither empty"), ("VERSION", "7", "has format 7")])
def test_a_folder_that_is_no_store_of_ours_is_left_alone(tmp_path, name, content, line):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=rf"^sandbox\.store={tmp_path}: {line}"):
        Store(tmp_path, "docker://")
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_a_store_that_another_process_has_half_made_is_made(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / f".VERSION.x{PART}").write_text("")
    Store(tmp_path, "docker://")
    assert (tmp_path / "VERSION").read_text() == "1"


def test_a_registry_that_wants_a_name_gets_the_one_that_was_logged_in_with(
    store, closed_registry, tmp_path, monkeypatch
):
    image = closed_registry.publish("closed", BASE)
    with pytest.raises(SandboxError, match="answers 401 unauthorized"):
        pull(store, image)
    kept = {"auths": {f"127.0.0.1:{closed_registry.port}": {"auth": base64.b64encode(b"me:hush").decode()}}}
    (tmp_path / "config.json").write_text(json.dumps(kept))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    pull(store, image)
    assert store.record(image)


def test_a_registry_that_wants_tokens_is_shown_a_fresh_one_as_often_as_it_asks(store, registry, tokens):
    published = registry.publish("tokens", BASE, {"top": "of it"})
    image = published.replace(str(registry.port), str(tokens.server_port))
    pull(store, image)  # a manifest, a configuration, two layers
    assert store.record(image)
    assert tokens.given == 2


def test_what_is_no_image_says_what_the_registry_said(store, registry):
    with pytest.raises(SandboxError, match=r"^127\.0\.0\.1 answers 404 manifest_unknown: manifest unknown$"):
        pull(store, f"127.0.0.1:{registry.port}/none:latest")
    with pytest.raises(SandboxError, match=r"^127\.0\.0\.1:1: connection refused or lost"):
        pull(store, "127.0.0.1:1/none:latest")


@pytest.mark.parametrize("page", ["<html>", "{}", "[]"])
@pytest.mark.parametrize("refuses", [False, True], ids=["image", "token"])
def test_what_no_registry_answers_is_told_and_asked_for_again(store, page, refuses, monkeypatch):
    """A proxy in between has pages of its own, in place of an image or of the token for it."""
    asked = []

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(401 if refuses and self.path != "/token" else 200)
            self.send_header("WWW-Authenticate", f'Bearer realm="http://{self.headers["Host"]}/token"')
            self.end_headers()
            self.wfile.write(page.encode())

    monkeypatch.setattr(images_module, "FIRST_WAIT", 0.1)
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        Thread(target=proxy.serve_forever, daemon=True).start()
        image = f"127.0.0.1:{proxy.server_port}/any:latest"
        got = [*Images(store, start_timeout=2, min_free_gb=0).get([Instance({"image": image})])]
        proxy.shutdown()
    assert [why_not.partition(" (")[0] for _, why_not in got] == [f"image {image} is missing; no registry answers so"]
    assert len(asked) > 2


def test_what_is_waited_for_is_told_and_an_interrupt_ends_the_waiting(tmp_path):
    store = Store(tmp_path / "store", "docker://127.0.0.1:9/")
    waiting, said = Images(store, start_timeout=600, min_free_gb=0), []
    waiting.say = lambda line: (said.append(line), pthread_kill(threading.main_thread().ident, SIGINT))
    with pytest.raises(KeyboardInterrupt):
        list(waiting.get([Instance({"image": "team/one:latest"})]))
    assert re.fullmatch(r"image team/one:latest: .* refused .*; tried again in 5 s", said[0])
    assert eventually(lambda: not any(thread.name.startswith("images") for thread in threading.enumerate()), 4)


def test_images_that_a_task_repo_builds_are_said_to_be_built(store, calc):
    planned = Images(store, start_timeout=600, min_free_gb=0).plan([calc])
    assert str(planned).endswith(" build them with Docker and write sandbox.source=docker-daemon:")


@pytest.mark.parametrize(
    ("image", "url", "tag"),
    [
        ("python:3.12", "https://registry-1.docker.io/v2/library/python", "3.12"),
        ("swebench/a.b_1:latest", "https://registry-1.docker.io/v2/swebench/a.b_1", "latest"),
        ("ghcr.io/a/b/c", "https://ghcr.io/v2/a/b/c", "latest"),
        ("localhost:5000/a@sha256:0f", "http://localhost:5000/v2/a", "sha256:0f"),
    ],
)
def test_a_name_is_read_as_docker_reads_it(image, url, tag):
    found = Reference.parse(image)
    assert (found.url, found.tag) == (url, tag)


def _hold(file: Path, is_held: Event, seconds: float) -> None:
    with lease(file, 10):
        is_held.set()
        time.sleep(seconds)
        is_held.clear()


class TestLease:
    """Two processes, one file."""

    @pytest.fixture
    def held(self, tmp_path) -> Callable[[float], tuple[BaseProcess, Event]]:
        def held(seconds: float) -> tuple[BaseProcess, Event]:
            spawn = multiprocessing.get_context("spawn")
            is_held = spawn.Event()
            holder = spawn.Process(target=_hold, args=(tmp_path / "lease", is_held, seconds))
            holder.start()
            assert is_held.wait(120)
            return holder, is_held

        return held

    def test_it_is_waited_for(self, held, tmp_path):
        _, is_held = held(0.5)
        with lease(tmp_path / "lease", 30):
            assert not is_held.is_set()
        assert list(tmp_path.iterdir()) == []

    def test_patience_ends(self, held, tmp_path):
        holder, _ = held(60)
        with pytest.raises(SandboxError, match="was held by another process"), lease(tmp_path / "lease", 1):
            pass
        holder.kill()

    def test_that_of_a_process_that_was_killed_is_taken_at_once(self, held, tmp_path):
        holder, _ = held(60)
        holder.kill()
        holder.join()
        with lease(tmp_path / "lease", DEAD / 2):
            pass

    def test_that_of_another_machine_is_taken_when_nobody_touches_it_any_more(self, tmp_path, monkeypatch):
        monkeypatch.setattr(lease_module, "DEAD", 1)
        started = time.monotonic()
        (tmp_path / "lease").write_text("another-boot/1/1/17/99")
        with lease(tmp_path / "lease", 30):
            assert time.monotonic() - started > 0.9

    def test_one_that_cannot_be_written_whole_is_nobodys(self, tmp_path):
        full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))"
        take = f"from swe_eval.sandbox.store.lease import *; lease(Path({str(tmp_path / 'lease')!r}), 1).__enter__()"
        done = subprocess.run([sys.executable, "-c", f"{full}; {take}"], capture_output=True, text=True)
        assert done.stderr.splitlines()[-1] == "OSError: [Errno 27] File too large"
        assert list(tmp_path.iterdir()) == []

    def test_that_of_another_stays_where_none_can_be_made(self, tmp_path):
        """As when this process has too many files open."""
        (tmp_path / "lease").touch()
        many = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))"
        take = f"lease(Path({str(tmp_path / 'lease')!r}), 1).__enter__()"
        code = f"from swe_eval.sandbox.store.lease import *; {many}; {take}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert "Too many open files" in done.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["lease"]

    def test_one_that_is_held_long_stays_held(self, tmp_path, monkeypatch):
        monkeypatch.setattr(lease_module, "BEAT", 0.1)
        with lease(tmp_path / "lease", 1):
            os.utime(tmp_path / "lease", (0, 0))  # as if it had not been touched for long
            assert eventually(lambda: age(tmp_path / "lease") < DEAD)
            with pytest.raises(SandboxError), lease(tmp_path / "lease", 0.5):
                pass
