"""Arms that must be merged have servers of their own: at once where there are devices, else one after another."""

from __future__ import annotations

from pathlib import Path

from serving_fixtures import serving_settings

from swe_eval.serving.parts import rounds, serve
from swe_eval.serving.proof import Prover
from swe_eval.serving.server import Server
from swe_eval.serving.supervised import SupervisedServer


def environment(server: Server, arm: str) -> dict[str, str]:
    """Of the process that serves the arm."""
    own = server._servers[arm]  # type: ignore[attr-defined]
    assert isinstance(own, SupervisedServer)
    lines = Path(f"/proc/{own.pid}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_each_has_its_own_devices_and_is_what_was_trained(talkative, random_adapters, tmp_path, monkeypatch):
    """On a CPU, devices are but names; the servers run at once all the same."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    settings = serving_settings(talkative, {"base": None, **random_adapters})
    reference = settings.lora.model_copy(update={"apply": "merge", "proof": "reference"})
    settings = settings.model_copy(update={"lora": reference})
    [together] = rounds(settings)
    with serve(together, tmp_path / "server.log", print) as server:
        assert [environment(server, arm)["CUDA_VISIBLE_DEVICES"] for arm in server.endpoints] == ["4", "5", "6"]
        assert len({endpoint.base_url for endpoint in server.endpoints.values()}) == 3
        proof = Prover(settings).prove(server)
    assert proof is not None
    assert len(proof.distances) == 3
    assert proof.off_reference is not None
    assert max(proof.off_reference.values()) < 1e-4
    logs = sorted(path.name for path in tmp_path.glob("*.log"))
    assert logs == ["server.base.log", "server.rl-step.900.log", "server.sft.log"]


def test_with_one_device_they_take_turns(talkative, random_adapters, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1f")
    settings = serving_settings(talkative, {"base": None, **random_adapters})
    merged = settings.model_copy(update={"lora": settings.lora.model_copy(update={"apply": "merge"})})
    assert [[arm.name for arm in part.adapters] for [part] in rounds(merged)] == [["base"], ["sft"], ["rl-step.900"]]
    assert [[arm.name for arm in part.adapters] for [part] in rounds(settings)] == [["base", "sft", "rl-step.900"]]
