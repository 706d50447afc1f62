"""``serving=vllm``: its command line, and the real server on a CPU."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest
from adapter_fixtures import Made, modules
from test_adapters import O_PROJ, SPOILT
from test_demo_run import OUTCOMES, outcomes, start, wait_for
from vllm_fixtures import NAMES, ON_A_CPU

from swe_eval.adapters import content_hash
from swe_eval.command import settings_of
from swe_eval.errors import ServingError, UserError
from swe_eval.evaluate import evaluate
from swe_eval.serve import _serve as serve_alone
from swe_eval.serving.endpoint import listed_models, prompt_logprobs
from swe_eval.serving.parts import parts, preflight, rounds, serve
from swe_eval.serving.process import ServerProcess
from swe_eval.serving.proof import TEXTS, Prover
from swe_eval.serving.reference import reference_logprobs
from swe_eval.serving.server import Server
from swe_eval.serving.vllm import HINTS, VllmServer, arguments, lora_arguments
from swe_eval.settings import Settings

ENGINE = b"VLLM::EngineCore"


def arms(folders: dict[str, Path]) -> list[str]:
    """The base model and these adapters."""
    listed = ", ".join(f"{{name: {name}, path: {path}}}" for name, path in folders.items())
    return ["lora=list", f"lora.adapters=[{{name: base, path: null}}, {listed}]"]


class TestCommandLine:
    def test_room_for_the_true_ranks_and_one_adapter_more(self, tmp_path, settings):
        """One more than there are: with as many slots as adapters, base rows were given an adapter's delta."""
        folders = {f"r{r}": Made(modules("o_proj"), r=r).write(tmp_path / str(r)) for r in (4, 24)}
        composed = settings("serving=vllm", *arms(folders))
        given = lora_arguments(composed, {"r4": "r4-1", "r24": "r24-2"})
        assert given[:3] == ["--enable-lora", "--max-lora-rank=32", "--max-loras=3"]
        assert given[5:] == [
            "--lora-modules",
            f'{{"name": "r4-1", "path": "{folders["r4"]}"}}',
            f'{{"name": "r24-2", "path": "{folders["r24"]}"}}',
        ]

    def test_room_for_every_rank_that_the_configuration_names(self, tmp_path, settings):
        """vLLM refuses an adapter by those, whether a module has them or not."""
        names = modules("o_proj")
        folder = Made(names, r=64, ranks=dict.fromkeys(names, 4)).write(tmp_path / "adapter")
        assert "--max-lora-rank=64" in lora_arguments(settings("serving=vllm", *arms({"a": folder})), {})

    @pytest.mark.parametrize(("names", "told"), [("o_proj|q_proj", ["o_proj", "q_proj"]), (r"o_proj|\.experts\.", [])])
    def test_no_room_is_made_at_experts_that_no_adapter_changes(self, names, told, tmp_path, settings):
        """At every expert, it would be many times that of all other modules."""
        folder = Made(modules(names)).write(tmp_path / "adapter")
        _, *given = lora_arguments(settings("serving=vllm", *arms({"a": folder})), {})[2:]
        assert given == (["--lora-target-modules", *told] if told else [])

    def test_the_model_and_all_gpus_that_are_visible(self, settings):
        told = settings("serving=vllm", "lora=none", "model.tool_call_parser=hermes", "model.max_model_len=4096")
        given = arguments(told, "swe_eval-1", devices=["0", "1"])
        assert {"--max-model-len=4096", "--tensor-parallel-size=2", "--tool-call-parser=hermes"} < {*given}
        assert given[-3:] == ["--served-model-name", "base", "swe_eval-1"]

    def test_adapters_that_must_be_merged_have_servers_of_their_own(self, tmp_path, settings, monkeypatch):
        """One after another on one GPU, at once where there is one for each."""
        folders = {name: Made(modules(name)).write(tmp_path / name) for name in ("kv_b_proj", "o_proj")}
        composed = settings("serving=vllm", *arms(folders))
        assert [[arm.name for arm in part.adapters] for part in parts(composed)] == [["base", "o_proj"], ["kv_b_proj"]]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
        assert [len(servers) for servers in rounds(composed)] == [1, 1]
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
        assert [len(servers) for servers in rounds(composed)] == [2]

    @pytest.mark.parametrize(
        ("said", "field"),
        [
            ("ValueError: No available memory for the cache blocks.", "model.max_model_len"),
            ("KV cache is needed, which is larger than the available KV cache memory (1 GiB)", "model.max_model_len"),
            ("Free memory on device cuda:0 (9/79 GiB) on startup is less than desired", "gpu_memory_utilization"),
            ("torch.OutOfMemoryError: CUDA out of memory.", "quantization=fp8"),
            ("attention heads (32) must be divisible by tensor parallel size (3).", "serving.tensor_parallel_size"),
            ("World size (4) is larger than the number of available GPUs (2)", "serving.tensor_parallel_size"),
            ("error: argument --max-lora-rank: invalid choice: 24", "serving.args"),
        ],
    )
    def test_what_vllm_says_of_a_known_trouble_has_a_hint(self, said, field, tmp_path):
        process = ServerProcess([sys.executable, "-c", f"raise SystemExit({said!r})"], {}, tmp_path / "log", HINTS)
        wait_for(lambda: not process.is_running())
        assert field in process.hint()

    def test_no_vllm_is_one_line(self, settings, tmp_path):
        composed = settings("serving=vllm", f"serving.python={tmp_path}/python", "lora=none")
        with pytest.raises(UserError, match=r"^serving\.python=.*No such file.*write the path of a Python that has"):
            preflight(composed)

    @pytest.mark.parametrize("case", ["wrong prefix", "beyond the model", "untrained", "not finite", "wrong base"])
    def test_what_vllm_takes_without_a_word_is_refused_before_it_is_started(self, case, settings, tmp_path):
        made = Made(O_PROJ)
        SPOILT[case](made)
        with pytest.raises(UserError, match=r"^lora: a: "):
            evaluate(settings("serving=vllm", *arms({"a": made.write(tmp_path / "a")})))
        assert not (tmp_path / "run").exists()

    def test_the_server_alone_holds_all_adapters_at_once(self, tmp_path, settings):
        """Nobody would load those of a client whose turn it is."""
        folders = {name: Made(O_PROJ).write(tmp_path / name) for name in ("a", "b")}
        with pytest.raises(UserError, match=r"^serving\.max_loras: too few for 2 adapters at once; write 2, or fewer"):
            serve_alone(settings("serving=vllm", "serving.max_loras=1", *arms(folders)))

    def test_a_container_is_given_the_arguments(self, settings, tmp_path):
        composed = settings("serving=vllm", "serving.command='apptainer exec --nv vllm.sif vllm serve'", "lora=none")
        server = VllmServer(composed, None, tmp_path / "log", print)
        assert server._launch.argv(8000)[:6] == ["apptainer", "exec", "--nv", "vllm.sif", "vllm", "serve"]
        assert server._launch.argv(8000)[-2:] == ["--host=127.0.0.1", "--port=8000"]


@pytest.fixture(scope="module")
def composed(dense: Path) -> Callable[..., Settings]:
    return lambda *overrides: settings_of(f"model.base_model={dense}", *ON_A_CPU, *overrides)


@pytest.fixture(scope="module")
def three(composed: Callable[..., Settings], checkpoints: dict[str, Path], tmp_path_factory) -> Iterator[Server]:
    """The base model and three adapters on one server."""
    settings = composed(*arms({name: checkpoints[name] for name in NAMES}))
    with serve([settings], tmp_path_factory.mktemp("vllm") / "server.log", print) as server:
        yield server


def scores(server: Server, arm: str, text: str = TEXTS[0]) -> np.ndarray:
    with server.using(arm) as endpoint:
        return np.array(prompt_logprobs(endpoint, text, timeout=120))


@pytest.mark.vllm
class TestServer:
    def test_under_load_every_arm_is_what_transformers_makes_of_it(self, three, composed, checkpoints):
        """Four arms at once, many times over: within 0.02 nats per token of transformers with the adapter merged."""
        asked = list(islice(cycle(three.endpoints), 48))
        with ThreadPoolExecutor(12) as clients:
            found = list(clients.map(lambda arm: scores(three, arm), asked))
        for arm in three.endpoints:
            folder = str(checkpoints[arm]) if arm in checkpoints else None
            [truth] = reference_logprobs(composed("lora=none").model, folder, TEXTS[:1])
            apart = [np.abs(each - truth).mean() for name, each in zip(asked, found, strict=True) if name == arm]
            assert max(apart) < 0.02

    def test_an_adapter_is_served_under_its_name_and_content(self, three, composed, checkpoints):
        adapters = composed(*arms({name: checkpoints[name] for name in NAMES})).adapters[1:]
        served = {three.endpoints[arm.name].model for arm in adapters}
        assert served == {f"{arm.name}-{content_hash(arm)[:8]}" for arm in adapters}
        base = three.endpoints["base"]
        assert served | {"base"} < listed_models(base.base_url, base.api_key).keys()

    def test_the_proof_holds(self, three, composed, checkpoints):
        proof = Prover(composed(*arms({name: checkpoints[name] for name in NAMES}))).prove(three)
        assert all(found.nats > 0.1 and found.is_real for found in proof.distances)

    def test_a_context_that_vllm_tells_of_the_base_alone_is_known_of_all(self, three):
        assert {endpoint.max_model_len for endpoint in three.endpoints.values()} == {8192}


@pytest.fixture(scope="module")
def folders(checkpoints: dict[str, Path], tmp_path_factory) -> dict[str, Path]:
    """Eight adapters that may be changed."""
    run = tmp_path_factory.mktemp("changing")
    return {name: Path(shutil.copytree(folder, run / name)) for name, folder in checkpoints.items()}


@pytest.fixture(scope="module")
def two_slots(composed: Callable[..., Settings], folders: dict[str, Path], tmp_path_factory) -> Iterator[Server]:
    """Those, and room for two."""
    settings = composed(*arms(folders), "serving.max_loras=2")
    with serve([settings], tmp_path_factory.mktemp("vllm") / "server.log", print) as server:
        yield server


@pytest.mark.vllm
class TestTurns:
    def test_eight_checkpoints_take_turns_in_two_slots(self, two_slots, checkpoints):
        """Loaded and unloaded while it runs, never in place: each is itself whenever it is asked, no two are alike."""
        first = {arm: scores(two_slots, arm) for arm in checkpoints}
        with ThreadPoolExecutor(6) as clients:
            again = dict(zip(checkpoints, clients.map(lambda arm: scores(two_slots, arm), checkpoints), strict=True))
        base = two_slots.endpoints["base"]
        loaded = listed_models(base.base_url, base.api_key).keys() & {e.model for e in two_slots.endpoints.values()}
        assert len(loaded) == 3  # the base model, and two of them
        apart = {(a, b): np.abs(first[a] - again[b]).mean() for a in checkpoints for b in checkpoints}
        assert all((nats < 1e-4) == (a == b) for (a, b), nats in apart.items())

    def test_an_adapter_that_is_changed_is_not_loaded_until_it_is_put_back(self, two_slots, folders, checkpoints):
        before = scores(two_slots, "step-200")
        for other in ("step-100", "step-300"):  # in its place
            scores(two_slots, other)
        shutil.copytree(checkpoints["step-800"], folders["step-200"], dirs_exist_ok=True)
        with pytest.raises(ServingError, match=r"lora: step-200: .* was changed while the run went on; put the old"):
            scores(two_slots, "step-200")
        assert len(scores(two_slots, "step-300"))
        shutil.copytree(checkpoints["step-200"], folders["step-200"], dirs_exist_ok=True)
        assert np.abs(scores(two_slots, "step-200") - before).mean() < 1e-4


def processes_in(folder: Path, title: bytes = b"") -> list[int]:
    """Those that were started there, whose command line begins with ``title``."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes().startswith(title) and (entry / "cwd").readlink() == folder:
                found.append(int(entry.name))
        except OSError:
            continue  # it ended meanwhile
    return found


@pytest.mark.vllm
def test_the_demo_survives_kills_of_its_runner_and_of_its_server(tmp_path):
    """Merged, because vLLM has no LoRA beside experts on a CPU: two servers, one after the other.

    The runner is killed while the first one starts, the second one's engine in the middle of the rollouts: nothing is
    left of the killed ones, and the verdicts are those of an undisturbed run.
    """
    command = ["swe_eval", *ON_A_CPU, "lora.apply=merge", "agent.model_retries=1"]
    killed = start(*command, cwd=tmp_path)
    wait_for(lambda: processes_in(tmp_path, ENGINE), seconds=400)
    killed.kill()
    killed.wait()
    wait_for(lambda: not processes_in(tmp_path))
    run = tmp_path / "outputs" / "demo-tiny-demo"
    again = start(*command, cwd=tmp_path)
    wait_for(lambda: list(run.glob("predictions/demo/*.diff")), seconds=1200)
    os.kill(processes_in(tmp_path, ENGINE)[0], signal.SIGKILL)
    out = again.communicate(timeout=1200)[0]
    assert again.returncode == 0, out
    assert "starting it again" in out
    assert outcomes(run, "base") == ["empty_patch"] * 7
    assert outcomes(run, "demo") == OUTCOMES
    assert not processes_in(tmp_path)
    assert not (run / "logs" / "infra.jsonl").exists()
