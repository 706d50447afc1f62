"""Trajectories side by side: the data of the page, its files, its server; and mini-swe-agent's own browser."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest
from minisweagent.run.utilities.inspector import TrajectoryInspector
from scripted import SUBMIT, bash
from test_evaluate import GOLD
from textual.widgets import Static
from trajectory_fixtures import evaluated, trajectory

from swe_eval import command
from swe_eval.report.__main__ import main
from swe_eval.report.results import collect
from swe_eval.report.runs import read_run
from swe_eval.report.trajectories.data import PATCH, SHOWN, Shown, cut, index_of, instance_of
from swe_eval.report.trajectories.server import make_server
from swe_eval.report.trajectories.write import script, shown_of
from swe_eval.run_dir import RunDir, Trial, read_json, write_json, write_text

LRU = "demo__lru-3"


def curious(model, messages):
    """Both look first; then `good` applies the reference patch, and `bad` looks for later commits."""
    turn = sum(message["role"] == "assistant" for message in messages)
    task = LRU if "capacity" in str(messages) else "demo__calc-1"
    looks = "git log --all --oneline && git diff > patch.txt"
    works = f"git apply - <<'EOF'\n{GOLD[task]}EOF\ngit diff > patch.txt"
    return [bash("ls"), bash(works if model == "good" else looks), SUBMIT][turn]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDir:
    """Two tasks under two arms, every part real but the model."""
    return evaluated(tmp_path_factory.mktemp("side") / "run", curious)


def data(path: Path) -> dict:
    """What a data file gives the page."""
    return json.loads(path.read_text().partition("(")[2].rpartition(")")[0])


def reported(run: RunDir, *options: str) -> int:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.argv", ["report", str(run.root), *options])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(str(ended.value.code))


@pytest.fixture(scope="module")
def written(run) -> Path:
    """What ``--trajectories`` leaves."""
    assert reported(run, "--trajectories") == command.OK
    return run.root


def test_the_page_is_one_file_that_names_no_network(written):
    page = (written / "trajectories.html").read_text()
    assert "trajectories.data/" in page
    assert "//" not in page.partition("<script>")[0].replace("<!doctype", "")
    assert "http" not in page.replace("http-equiv", "")


def test_the_report_and_the_page_lead_to_each_other(written):
    assert f'href="trajectories.html#{LRU}"' in (written / "report.html").read_text()
    assert data(written / "trajectories.data" / "index.js")["report"] == "report.html"


def test_there_is_a_data_file_per_instance_and_a_list_of_them(written):
    assert {path.name for path in (written / "trajectories.data").iterdir()} == {
        "index.js",
        "demo__calc-1.js",
        "demo__lru-3.js",
    }
    index = data(written / "trajectories.data" / "index.js")
    assert (index["arms"], index["pair"]) == (["bad", "good"], ["bad", "good"])
    assert [each["instance_id"] for each in index["instances"]] == ["demo__calc-1", "demo__lru-3"]
    assert index["instances"][1]["trials"]["bad"] == {
        **{"outcome": "empty_patch", "exit_status": "Submitted", "turns": 3, "flags": ["later commits"]},
    }


def test_an_instance_has_both_rollouts_the_reference_patch_and_the_tests(written):
    found = data(written / "trajectories.data" / f"{LRU}.js")
    good, bad = found["trials"]["good"], found["trials"]["bad"]
    assert (good["outcome"], bad["outcome"]) == ("resolved", "empty_patch")
    assert found["gold"] == GOLD[LRU]
    assert good["patch"].startswith("diff --git")
    assert good["tests"]["FAIL_TO_PASS"]["failed"] == 0 < good["tests"]["FAIL_TO_PASS"]["passed"]
    assert [turn["actions"][0]["command"] for turn in bad["turns"]][:1] == ["ls"]
    assert [flag["turn"] for flag in bad["flags"]] == [2]


def test_the_links_lead_to_the_raw_files(written):
    for trial in data(written / "trajectories.data" / f"{LRU}.js")["trials"].values():
        assert {"trajectory", "patch", "report"} <= set(trial["files"])
        assert all((written / path).is_file() for path in trial["files"].values())


def test_a_run_whose_dataset_is_gone_shows_everything_else_and_says_so(run, tmp_path):
    for path in [run.run_json, *run.root.rglob("*.traj.json"), *run.root.rglob("report.json")]:
        write_text(tmp_path / path.relative_to(run.root), path.read_text())
    kept = read_run(tmp_path)
    shown = shown_of(kept)
    assert shown.rows == {}
    assert "could not be loaded" in index_of(shown, kept.arms)["notes"][0]
    found = instance_of(shown, LRU, {arm.name: arm.verdicts[LRU] for arm in kept.arms})
    assert found["gold"] is None
    assert "Fix this in the source files" in found["problem_statement"]


def test_what_is_long_is_cut_in_its_middle_and_says_how_much_is_gone():
    text = cut("a" * SHOWN + "b" * SHOWN)
    assert text.startswith("aaa")
    assert text.endswith("bbb")
    assert f"[... {SHOWN:,} characters are left out here" in text
    assert cut("short") == "short"


def test_data_is_ascii_whatever_the_bytes_were(tmp_path):
    run, trial = RunDir(tmp_path), Trial("arm", "a__a-1")
    write_json(run.trajectory(trial), trajectory(("cat \N{SNOWMAN}", "\udce9</script>")))
    run.prediction(trial).parent.mkdir(parents=True)
    run.prediction(trial).write_bytes(b"+\xe9\n" + b"x" * 2 * PATCH)
    [arm] = collect(run, [trial])
    made = instance_of(Shown(run, [trial]), "a__a-1", {"arm": arm.verdicts["a__a-1"]})
    assert script("instance", made).isascii()
    assert made["trials"]["arm"]["patch"].startswith("+\udce9")


@pytest.mark.parametrize(
    ("adapters", "compared", "pair"),
    [
        (["base", "rl"], [("base", "rl")], ["base", "rl"]),
        (["a", "b", "c"], [("c", "a")], ["c", "a"]),
        (["only"], [], ["only", "only"]),
    ],
)
def test_the_page_begins_with_what_the_run_compares(adapters, compared, pair, tmp_path):
    trials = [Trial(adapter, "a__a-1") for adapter in adapters]
    assert Shown(RunDir(tmp_path), trials, compared).pair == pair


def test_of_several_samples_it_begins_with_the_first(tmp_path):
    trials = [Trial(adapter, "a__a-1", sample, 2) for adapter in ("base", "rl") for sample in (1, 2)]
    assert Shown(RunDir(tmp_path), trials, [("base", "rl")]).pair == ["base.s1", "rl.s1"]


# ---- the server


@pytest.fixture
def server(run):
    kept = read_run(run.root)
    with make_server(shown_of(kept)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def asked(server, path: str, host: str = "") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{server.server_port}"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def test_the_server_makes_the_same_data_as_it_is_asked_for(server, written):
    for name in ("index", LRU):
        status, text = asked(server, f"/trajectories.data/{name}.js")
        assert (status, text) == (200, (written / "trajectories.data" / f"{name}.js").read_text())
    assert asked(server, "/trajectories.html")[0] == 200
    assert asked(server, "/")[0] == 302


def test_the_server_shows_raw_files_of_the_run_and_nothing_above_it(server, run):
    assert asked(server, f"/predictions/good/{LRU}.diff") == (200, RunDir(run.root).read_patch(Trial("good", LRU)))
    assert asked(server, "/../../etc/passwd")[0] == 404
    assert asked(server, "/%2e%2e/%2e%2e/etc/passwd")[0] == 404
    assert asked(server, "/trajectories.data/no-such.js")[0] == 404


def test_the_server_answers_to_its_own_name_alone(server):
    """Or a page elsewhere could read the run, by a name of its own that leads here."""
    assert asked(server, "/trajectories.data/index.js", host="evil.example:80")[0] == 421
    assert asked(server, "/trajectories.data/index.js", host=f"localhost:{server.server_port}")[0] == 200


def test_the_server_sees_what_a_run_at_work_adds(server, run):
    report = run.report(Trial("bad", LRU))
    before = report.read_text()
    write_json(report, {LRU: {"outcome": "resolved"}})
    try:
        assert '"outcome":"resolved"' in asked(server, "/trajectories.data/index.js")[1].partition(LRU)[2]
    finally:
        write_text(report, before)


def test_the_command_serves_until_ctrl_c(run):
    argv = [sys.executable, "-m", "swe_eval.report", str(run.root), "--serve"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as serving:
        said = serving.stdout.readline()
        address = re.fullmatch(r"(http://127\.0\.0\.1:\d+/trajectories\.html) until Ctrl-C\n", said)
        with urllib.request.urlopen(address[1]) as answer:
            assert b"<title>Trajectories</title>" in answer.read()
        serving.send_signal(signal.SIGINT)
    assert serving.returncode == command.OK


def test_a_port_that_is_taken_is_one_line(server, run, capsys):
    assert reported(run, "--serve", "--port", str(server.server_port)) == command.BAD_INPUT
    assert capsys.readouterr().err.startswith(f"swe_eval: --port {server.server_port}: Address already in use; write")


def test_two_runs_are_not_shown_side_by_side(run, tmp_path, capsys):
    assert reported(run, str(tmp_path), "--serve") == command.BAD_INPUT
    assert capsys.readouterr().err == "swe_eval: --serve: shows one run; name one of the 2\n"


@pytest.mark.parametrize("option", ["--serve", "--trajectories"])
def test_of_a_sweep_one_run_is_to_be_named(option, tmp_path, capsys):
    for name in ("rl-10", "rl-9"):
        write_json(tmp_path / name / "run.json", {})
    assert reported(RunDir(tmp_path), option) == command.BAD_INPUT
    said = f"{option}: shows one run; name one of those below {tmp_path}, such as {tmp_path / 'rl-9'}"
    assert capsys.readouterr().err == f"swe_eval: {said}\n"


# ---- what the report says of it


def test_the_run_keeps_its_flags_and_the_report_names_them(run, capsys):
    reported(run)
    said = capsys.readouterr().out
    assert "bad: 2 trials looked for commits that HEAD does not lead to (0 resolved): demo__calc-1, demo__lru-3" in said
    [flag] = read_json(run.run_json)["integrity"]["adapters"]["bad"]["flags"]["bad"][LRU]
    assert (flag["evidence"], flag["is_disqualifying"]) == ("git log --all --oneline", False)  # nothing was there


# ---- mini-swe-agent's own browser


def test_minis_own_browser_opens_our_trajectories(run):
    files = sorted((run.root / "trajectories" / "good").rglob("*.traj.json"))

    async def looked_at() -> list[str]:
        app = TrajectoryInspector(files)
        async with app.run_test() as pilot:
            await pilot.press("l", "l")
            return [app.title, *(str(each.render()) for each in app.query(Static))]

    title, *shown = asyncio.run(looked_at())
    assert title == "Trajectory 1/2 - demo__calc-1.traj.json - Step 3/4"
    assert any("git apply" in text for text in shown)
