"""What only sandboxes without an engine promise, and what is said where they cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sandbox_fixtures import OVERRIDES, what_is_left

from swe_eval import doctor
from swe_eval.errors import UserError
from swe_eval.sandbox import node, owner, watchdog
from swe_eval.sandbox.bubblewrap import BubblewrapSandboxes
from swe_eval.sandbox.node import USERNS, file_system, has_fuse, overlay_that_works, sub_ids
from swe_eval.sandbox.sandbox import Completed, connect

pytestmark = pytest.mark.bubblewrap

NO_ENGINES = ["sandbox=auto", "sandbox.docker.executable=no-docker", "sandbox.podman.executable=no-podman"]


@pytest.fixture
def kind() -> str:
    return "bubblewrap"


def with_files_at(place: Path, settings, run_id: str) -> BubblewrapSandboxes:
    return connect(settings(*OVERRIDES["bubblewrap"], f"sandbox.scratch='{place}'").sandbox, run_id)


class TestSandbox:
    def test_it_has_the_images_variables_and_no_others(self, sandbox):
        look = "env -u PWD -u OLDPWD -u _ -u SHLVL | sort"
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        assert sandbox.run(look, timeout=60).text.split() == ["HOME=/root", "HOSTNAME=sandbox", f"PATH={path}"]

    def test_an_agents_root_has_the_capabilities_of_dockers(self, backend, calc):
        look = "grep -E 'CapEff|CapPrm|NoNewPrivs' /proc/self/status | cut -f 2"
        with backend.start(calc, "rollout") as sandbox:
            assert sandbox.run(look, timeout=60).text.split() == ["00000000000000fb"] * 2 + ["1"]
            assert (
                sandbox.run("touch a && chmod 0 a && cat a && mkdir b && chmod 0 b && ls b", timeout=60).returncode == 0
            )
        with backend.start(calc, "grading") as sandbox:
            assert sandbox.run(look, timeout=60).text.split()[0] == "00000000a00425fb"  # Docker's own, but for MKNOD

    def test_what_one_writes_no_other_sees_and_the_image_neither(self, backend, calc):
        with backend.start(calc, "rollout") as one, backend.start(calc, "rollout") as other:
            one.run("rm -r tests; echo x > /etc/passwd", timeout=60)
            assert other.run("ls -d tests; wc -l < /etc/passwd", timeout=60).text.startswith("tests\n1")
        assert backend.store.verify(calc.image) == []

    @pytest.mark.parametrize("place", ["/dev/shm", "a: folder, of mine"])
    def test_its_files_may_be_in_memory_or_in_a_folder_of_any_name(self, settings, run_id, calc, tmp_path, place):
        folder = tmp_path / place
        folder.mkdir(exist_ok=True)
        backend = with_files_at(folder, settings, run_id)
        with backend.start(calc, "rollout") as sandbox:
            assert (
                sandbox.run("rm -r tests; mkdir tests; ls tests; git status --short | wc -l", timeout=60).text == "1\n"
            )
        assert list(folder.glob(f"swe_eval-{run_id}*")) == []

    @pytest.mark.skipif(not has_fuse(), reason="/dev/fuse cannot be opened")
    def test_fuse_overlayfs_serves_where_the_kernel_does_not(self, backend, calc, run_id):
        backend._overlay = "fuse"
        with backend.start(calc, "grading") as sandbox:
            assert b"fuse-overlayfs" in sandbox.run("grep ' / ' /proc/mounts", timeout=60).output
            assert sandbox.run("rm -r tests; mkdir tests; touch tests/x; ls tests", timeout=60) == Completed(b"x\n", 0)
        assert what_is_left("bubblewrap", run_id) == []

    def test_disk_is_limited(self, settings, run_id, calc, monkeypatch):
        """Past it, everything in the sandbox is killed, and what it wrote stays."""
        monkeypatch.setattr(watchdog, "DISK_LOOKS", 2)
        backend = connect(settings(*OVERRIDES["bubblewrap"], "sandbox.disk=64m").sandbox, run_id)
        with backend.start(calc, "rollout") as sandbox:
            fill = "for i in {1..100}; do head -c 16m /dev/zero > $i; sleep 0.1; done"
            assert sandbox.run(fill, timeout=60).returncode == 137
            monkeypatch.setattr(watchdog, "DISK_LOOKS", 1000)  # or a slow shell is killed while it opens
            assert sandbox.run("head -c 80m /dev/zero > one-file", timeout=60).returncode != 0


@pytest.mark.parametrize("whose", ["of another user", "a link"])
def test_what_others_put_where_all_may_write_is_left_alone(settings, run_id, tmp_path, monkeypatch, whose):
    """It could name processes and files of ours, to be killed and removed."""
    scratch, theirs = tmp_path / "scratch", tmp_path / "theirs"
    (theirs / "upper").mkdir(parents=True)
    scratch.mkdir()
    backend = with_files_at(scratch, settings, run_id)
    with subprocess.Popen(["sleep", "60"]) as process:
        (theirs / "owner").write_text(f"{run_id}\n\n{owner.name_of(process.pid)}")
        if whose == "a link":
            (scratch / "swe_eval-theirs").symlink_to(theirs)
        else:
            theirs = theirs.rename(scratch / "swe_eval-theirs")
            monkeypatch.setattr("swe_eval.sandbox.bubblewrap.os.getuid", lambda: 54321)
        backend.remove_all()
        assert (process.poll(), sorted(path.name for path in theirs.iterdir())) == (None, ["owner", "upper"])
        process.kill()


@pytest.mark.parametrize(
    ("command", "fill", "said"),
    [
        ("true", 9_000_000, "No space left on device"),
        ("head -c 9m /dev/zero > /testbed/a", 0, "the disk is full; make room, or write another directory"),
        ("head -c 9m /dev/zero > a; sleep 1; rm a", 0, "the disk is full; make room, or write another directory"),
        ("for i in {1..2000}; do > $i; done", 0, "the disk is full; make room, or write another directory"),
    ],
    ids=["before it", "at its end", "meanwhile", "of files"],
)
def test_a_sandbox_that_meets_a_full_disk_has_no_result_and_leaves_nothing(tmp_path, command, fill, said):
    """The disk is of three megabytes and a thousand files, mounted where a user is root."""
    code = f"from sandbox_fixtures import *; start_on(Path({str(tmp_path)!r}), {command!r}, {fill})"
    mount = 'mount -t tmpfs -o size=3m,nr_inodes=1k small "$0" && exec "$@"'
    done = subprocess.run(
        [*USERNS, "sh", "-c", mount, str(tmp_path), sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    assert done.stdout.splitlines() == [f"sandbox.scratch={tmp_path}: {said}", str(["fill"])], done.stderr


class TestMachine:
    def test_a_file_system_is_called_what_the_kernel_calls_it(self):
        assert (file_system(Path("/proc/self")), file_system(Path("/dev/shm/no/such"))) == ("proc", "tmpfs")

    def test_a_machine_without_user_namespaces_is_told_which_setting_it_is(self, tmp_path):
        code = f"from swe_eval.sandbox.node import *; overlay_that_works(Path({str(tmp_path)!r}))"
        forbid = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
        command = [*USERNS, "sh", "-c", forbid, "sh", sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True)
        expected = "sandbox=bubblewrap: no user namespaces (set to 0: sysctl user.max_user_namespaces=0); ask whoever"
        assert expected in done.stderr.splitlines()[-1]

    @pytest.mark.parametrize(
        ("may_open", "what", "help"),
        [
            (True, "is not installed", "install fuse-overlayfs"),
            (
                False,
                "is not installed and may not open /dev/fuse",
                "install fuse-overlayfs and let users open /dev/fuse (chmod 666)",
            ),
        ],
    )
    def test_where_no_overlay_can_be_it_is_told_what_is_missing_and_what_helps(
        self, tmp_path, monkeypatch, may_open, what, help
    ):
        (few := tmp_path / "bin").mkdir()
        for tool in ("unshare", "nsenter", "prlimit", "bwrap", "sh", "mkdir", "rm", "true"):  # no mount
            found = subprocess.run(["which", tool], capture_output=True, text=True, check=True).stdout.strip()
            (few / tool).symlink_to(found)
        monkeypatch.setenv("PATH", str(few))
        monkeypatch.setattr(node, "has_fuse", lambda: may_open)
        with pytest.raises(UserError) as error:
            overlay_that_works(tmp_path)
        line = str(error.value)
        assert line.startswith(f"sandbox=bubblewrap: no overlay on {tmp_path} (Linux ")
        assert line.endswith(f"mount: not found, 5.11 can; fuse-overlayfs {what}); {help}, or write sandbox=...")

    def test_what_is_not_installed_is_told(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        line = r"^sandbox=bubblewrap: not installed: bwrap \(bubblewrap\), nsenter \(util-linux\), .*; install it, or"
        with pytest.raises(UserError, match=line):
            overlay_that_works(tmp_path)

    def test_a_scratch_that_cannot_be_written_is_told(self, settings, run_id):
        with pytest.raises(UserError, match=r"^sandbox\.scratch=/proc: .*; write a directory that can be written$"):
            with_files_at(Path("/proc"), settings, run_id)

    def test_a_user_whom_nobody_knows_has_no_ids_to_give_away(self, monkeypatch):
        for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("os.getuid", lambda: 54321)
        assert sub_ids() == 0


class TestAuto:
    def test_the_first_that_works_is_taken_and_why_not_the_others_is_said(self, settings, run_id):
        backend, said = connect(settings(*NO_ENGINES).sandbox, run_id), []
        with backend.expecting([], said.append):
            pass
        lacking = "sandbox.executable=no-{0}: No such file or directory; write the name of the {0} command"
        assert said == [f"sandbox=auto: bubblewrap; not {lacking.format('docker')}; not {lacking.format('podman')}"]

    def test_where_none_works_each_says_why(self, settings, run_id, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(UserError) as error:
            connect(settings("sandbox=auto").sandbox, run_id)
        heads = [line.split(":")[0] for line in str(error.value).splitlines()]
        engines = ["sandbox.executable=docker", "sandbox.executable=podman"]
        assert heads == ["sandbox=auto", *engines, "sandbox=bubblewrap", "sandbox=apptainer"]

    def test_the_doctor_names_what_would_work_instead(self, settings, capsys):
        doctor._doctor(settings("lora=none", "sandbox=docker", "sandbox.executable=no-docker"))
        lines = capsys.readouterr().out.splitlines()
        assert any("this machine: Linux" in line and "subordinate uids" in line for line in lines)
        assert any(line.split() == ["ok", "sandbox=bubblewrap", "would", "work"] for line in lines)
