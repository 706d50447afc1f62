"""The proof that what is served is what was trained: against our own server, and against servers that are wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import pytest
from rich.console import Console
from scripted import scripted_endpoint
from serving_fixtures import NAMES, Given, random_adapter, serving_settings

from swe_eval.errors import ServingError
from swe_eval.evaluate import evaluate
from swe_eval.report.tables import print_proof
from swe_eval.serving.parts import serve
from swe_eval.serving.proof import TEXTS, Proof, Prover, Unproven
from swe_eval.serving.server import Endpoint, Server
from swe_eval.settings import Settings


@pytest.fixture
def arms(talkative: Path, random_adapters: dict[str, Path]) -> Settings:
    """The settings of the session's server."""
    return serving_settings(talkative, {"base": None, **random_adapters})


def with_lora(settings: Settings, **fields: object) -> Settings:
    return settings.model_copy(update={"lora": settings.lora.model_copy(update=fields)})


def proven(server: Server, settings: Settings) -> Proof:
    proof = Prover(settings).prove(server)
    assert proof is not None
    return proof


@contextmanager
def endpoint_that_scores(score: Callable[[str, bool], float]) -> Iterator[dict[str, Endpoint]]:
    """``base`` and ``trained``: a model's score of a text, by its name and whether all are asked at once.

    They are once each text was scored under each of them alone, twice; then none is answered before all are there.
    """
    asked, all_are_there = count(), threading.Barrier(2 * len(TEXTS))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            model = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["model"]
            if at_once := next(asked) >= 2 * 2 * len(TEXTS):
                all_are_there.wait(60)
            scored = score(model, at_once)
            answer = {"choices": [{"logprobs": {"token_logprobs": [None, scored]}}], "usage": {"prompt_tokens": 2}}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{http.server_port}/v1"
        yield {name: Endpoint(url, "key", name, None) for name in ("base", "trained")}
        http.shutdown()


def test_every_two_arms_are_told_apart_on_our_server(server, arms):
    proof = proven(server, arms)
    assert [(found.a, found.b) for found in proof.distances] == [
        ("base", "sft"),
        ("base", "rl-step.900"),
        ("sft", "rl-step.900"),
    ]
    assert all(found.nats > 0.1 and found.noise < 1e-4 for found in proof.distances)


def test_an_adapter_that_the_server_does_not_apply_stops_the_run(server, arms):
    dropped = {**server.endpoints, "sft": server.endpoints["base"]}
    with pytest.raises(Unproven, match=r"^lora\.proof: sft cannot be told from base \(0 nats .* lora\.proof=none"):
        Prover(arms).prove(Given(dropped))


def test_two_arms_of_the_same_weights_stop_the_run(server, arms):
    with pytest.raises(Unproven, match=r"rl-step\.900 cannot be told from sft .* the same weights"):
        Prover(arms).prove(Given({**server.endpoints, "rl-step.900": server.endpoints["sft"]}))


def test_arms_on_servers_one_after_the_other_are_told_apart_too(server, arms):
    """A merged adapter is alone on its server; what is held against it was scored before."""
    prover = Prover(arms)
    prover.prove(Given({"base": server.endpoints["base"]}))
    proof = prover.prove(Given({"sft": server.endpoints["sft"]}))
    assert proof is not None
    assert [(found.a, found.b) for found in proof.distances] == [("base", "sft")]
    with pytest.raises(Unproven, match=r"rl-step\.900 cannot be told from sft"):
        prover.prove(Given({"rl-step.900": server.endpoints["sft"]}))


BASE_AND_TRAINED = serving_settings(Path("unused"), {"base": None, "trained": Path("somewhere")})


def test_a_server_that_mixes_up_arms_asked_at_once_stops_the_run():
    with (
        endpoint_that_scores(lambda model, at_once: -2.0 if at_once or model == "trained" else -1.0) as endpoints,
        pytest.raises(Unproven, match="with other arms, base is scored as trained is"),
    ):
        Prover(BASE_AND_TRAINED).prove(Given(endpoints))


def test_two_checkpoints_nearer_to_each_other_than_the_rounding_in_company_are_not_mixed_up():
    """Seen alone they differ; asked together, all scores move by more than that."""
    alone = {"base": -1.0, "trained": -1.001}
    with endpoint_that_scores(lambda model, at_once: alone[model] + 0.01 * at_once) as endpoints:
        [found] = proven(Given(endpoints), BASE_AND_TRAINED).distances
    assert found.is_real


def test_where_no_arm_is_an_adapter_nothing_is_asked():
    settings = serving_settings(Path("unused"), {"one": None, "two": None})
    assert Prover(settings).prove(Given({})) is None


def test_an_adapter_alone_on_its_server_is_said_to_be_unproven(capsys):
    settings = serving_settings(Path("unused"), {"trained": Path("somewhere")})
    found = proven(Given({"trained": Endpoint("http://127.0.0.1:9/v1", "key", "trained", None)}), settings)
    print_proof(Console(), found.as_json())
    assert "no second model to tell this one from; lora.proof=reference" in capsys.readouterr().out


def test_an_endpoint_that_scores_nothing_is_named_with_the_way_out(arms):
    with scripted_endpoint(lambda *_: "", status=404) as scripted:
        endpoints = {name: Endpoint(scripted.base_url, "key", name, None) for name in NAMES}
        with pytest.raises(Unproven, match=r"base at http.* does not score a text .*HTTP 404.*lora\.proof=none"):
            Prover(arms).prove(Given(endpoints))


def test_none_asks_for_nothing(arms):
    assert Prover(with_lora(arms, proof="none")).prove(Given({})) is None


def test_a_server_that_dies_meanwhile_is_started_again_and_asked_again(talkative, random_adapters, tmp_path):
    """Here with a base model that is no arm, and served for the proof alone."""
    said = []
    settings = serving_settings(talkative, {"sft": random_adapters["sft"]})
    with serve([settings], tmp_path / "log", said.append) as server:
        os.killpg(server.pid, signal.SIGKILL)
        [found] = proven(server, settings).distances
    assert (found.a, found.b, found.is_real) == (str(talkative), "sft", True)
    assert any("the model server ended with exit code -9" in line for line in said)
    assert sum(line.startswith("serving the base model, sft at http") for line in said) == 2


def test_a_base_model_that_is_no_arm_is_called_so_when_the_proof_fails(server):
    settings = serving_settings(Path("/models/tiny"), {"sft": Path("somewhere")})
    endpoints = {"/models/tiny": server.endpoints["base"], "sft": server.endpoints["base"]}
    with pytest.raises(Unproven, match=r"^lora\.proof: sft cannot be told from the base model \("):
        Prover(settings).prove(Given(endpoints))


def test_a_server_that_dies_does_not_come_back_with_other_weights(talkative, random_adapters, tmp_path):
    adapter = shutil.copytree(random_adapters["sft"], tmp_path / "sft")
    settings = serving_settings(talkative, {"sft": adapter})
    with serve([settings], tmp_path / "log", print) as server:
        shutil.copytree(random_adapters["rl-step.900"], adapter, dirs_exist_ok=True)
        os.killpg(server.pid, signal.SIGKILL)
        with pytest.raises(ServingError, match=r"^lora: sft: .* was changed while the run went on; put the old files"):
            server.recovered("sft", server.endpoints["sft"])


class TestReference:
    def test_our_server_computes_what_transformers_does(self, server: Server, arms: Settings) -> None:
        off = proven(server, with_lora(arms, proof="reference")).off_reference
        assert off is not None
        assert list(off) == NAMES
        assert max(off.values()) < 1e-4

    def test_an_adapter_applied_to_half_is_refused(self, server: Server, arms: Settings) -> None:
        """It differs from the base model: what tells is that it differs from what was trained, too."""
        swapped = dict(zip(NAMES, [server.endpoints[name] for name in ("base", "rl-step.900", "sft")], strict=True))
        with pytest.raises(Unproven, match=r"^lora\.proof=reference: sft is \S+ nats per token off transformers"):
            Prover(with_lora(arms, proof="reference")).prove(Given(swapped))

    def test_a_merged_adapter_is_held_against_it(self, talkative: Path, tmp_path: Path) -> None:
        adapter = random_adapter(talkative, tmp_path / "adapter", 3, target_modules=["kv_b_proj", "o_proj"])
        settings = with_lora(serving_settings(talkative, {"rl": adapter}), proof="reference", apply="merge")
        with serve([settings], tmp_path / "log", print) as server:
            off = proven(server, settings).off_reference
        assert off is not None
        assert off["rl"] < 1e-4


def test_a_run_whose_adapter_is_not_applied_rolls_nothing_out(settings, server, monkeypatch, tmp_path):
    monkeypatch.setenv("KEY", server.endpoints["base"].api_key)
    external = ["serving=external", f"serving.base_url={server.endpoints['base'].base_url}", "serving.api_key_env=KEY"]
    with pytest.raises(Unproven, match="demo cannot be told from base"):
        evaluate(settings(*external, "+serving.models.demo=base"))
    assert not (tmp_path / "run" / "trajectories").exists()
