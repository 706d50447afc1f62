"""``serving=vllm``: one vLLM, in an environment of its own, with the base model and all adapters that it can apply.

What it does with adapters, its traps and error texts were measured with vLLM 0.32.
"""

from __future__ import annotations

import json
import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import httpx

from swe_eval import adapters
from swe_eval.errors import ServingError
from swe_eval.serving.devices import only, visible_devices
from swe_eval.serving.endpoint import Endpoint, post, reason
from swe_eval.serving.process import ServerProcess
from swe_eval.serving.slots import Slots
from swe_eval.serving.supervised import Launch, SupervisedServer
from swe_eval.serving.transformers import base_names
from swe_eval.serving.vllm_env import find_python
from swe_eval.settings import Settings, VllmServing

API_SERVER = ("-m", "vllm.entrypoints.openai.api_server")
PHASES = {
    r"Loading safetensors checkpoint shards:\s+(\d+)%.*\|\s*(\d+/\d+)": r"loading shards \2",
    r"Starting to load model": "loading the weights",
    r"Time spent downloading weights|[Dd]ownloading": "downloading the weights",
    r"Dynamo bytecode transform|Compiling a graph|torch\.compile took": "compiling",
    r"Capturing CUDA graphs.*?(\d+/\d+)": r"capturing CUDA graphs \1",
    r"Capturing CUDA graphs|Graph capturing": "capturing CUDA graphs",
    r"KV cache size|Available KV cache memory|init engine": "making room for the KV cache",
    r"Initializing a V1 LLM engine": "starting the engine",
}
HINTS = {
    r"No available memory for the cache blocks|larger than the maximum number of tokens that can be stored in KV|"
    r"max seq len .* is larger than|larger than the available KV cache memory": (
        "no room is left for the KV cache: a smaller model.max_model_len, a larger serving.gpu_memory_utilization, "
        "quantization=fp8, or serving.tensor_parallel_size=2 on two GPUs"
    ),
    r"Free memory on device .* is less than desired": (
        "another process holds part of the GPU: end it, or write a smaller serving.gpu_memory_utilization"
    ),
    r"out of memory|OutOfMemoryError": (
        "it does not fit: quantization=fp8, a smaller model.max_model_len, serving.max_num_seqs or serving.max_loras, "
        "another serving.gpu_memory_utilization, or serving.tensor_parallel_size=2 on two GPUs"
    ),
    r"must be divisible by tensor parallel size|World size .* is larger than the number": (
        "serving.tensor_parallel_size must divide the model's attention heads, and so many GPUs must be visible"
    ),
    r"No module named '?vllm": "serving.python must be a Python that has vLLM: make vllm makes one",
    r"unrecognized arguments|invalid choice|error: argument": "serving.args: this vLLM does not know one of them",
}


class VllmServer(SupervisedServer):
    """A vLLM that knows adapters by name and content, so that none of its caches answers for other weights.

    Raises:
        UserError: no vLLM is installed where the settings say.
    """

    def __init__(
        self, settings: Settings, devices: Sequence[str] | None, log: Path, say: Callable[[str], None]
    ) -> None:
        serving = settings.serving
        assert isinstance(serving, VllmServing)
        self._adapters = {arm.name: arm for arm in settings.adapters if arm.path is not None}
        self._contents = {name: adapters.content_hash(arm) for name, arm in self._adapters.items()}
        self._names = {name: f"{name}-{content[:8]}" for name, content in self._contents.items()}
        self._timeout = serving.startup_timeout
        size = min(serving.slots, len(self._adapters))
        self._slots = None if size == len(self._adapters) else Slots(size, self._load, self._unload)
        super().__init__(self._launch_of(settings, devices), log, say)

    @contextmanager
    def using(self, arm: str) -> Iterator[Endpoint]:
        slot: AbstractContextManager[None] = nullcontext()
        if self._slots and arm in self._adapters:
            slot = self._slots.using(arm)
        with slot:
            yield self.endpoints[arm]

    def _spawn(self, port: int) -> ServerProcess:
        if self._slots:
            self._slots.forget()
        return super()._spawn(port)

    def stop(self) -> None:
        if self._slots:
            self._slots.close()
        super().stop()

    def _load(self, arm: str) -> None:
        """Under a name that its content decides, never in place: vLLM's prefix cache goes by the name (vllm#42125)."""
        path = self._adapters[arm].path
        adapters.refuse_changed(self._adapters[arm], self._contents[arm])
        self._ask(arm, "load", {"lora_name": self._names[arm], "lora_path": path})

    def _unload(self, arm: str) -> None:
        self._ask(arm, "unload", {"lora_name": self._names[arm]})

    def _ask(self, arm: str, what: str, body: Mapping[str, object]) -> None:
        try:
            post(self.endpoints[arm], f"/{what}_lora_adapter", body, self._timeout)
        except httpx.HTTPError as error:
            raise ServingError(f"lora: {arm}: vLLM does not {what} it ({reason(error)})") from None

    def _launch_of(self, settings: Settings, devices: Sequence[str] | None) -> Launch:
        serving = settings.serving
        assert isinstance(serving, VllmServing)
        api_key = serving.key()
        own_name = f"swe_eval-{secrets.token_hex(4)}"
        at_start = {} if self._slots else self._names
        own = visible_devices() if devices is None else devices
        command = [*program(serving), *arguments(settings, own_name, own), *lora_arguments(settings, at_start)]

        def argv(port: int) -> list[str]:
            for arm in at_start:
                adapters.refuse_changed(self._adapters[arm], self._contents[arm])
            return [*command, f"--host={serving.host}", f"--port={port}", *serving.args]

        env = {"VLLM_API_KEY": api_key}  # not in argv, which every user of the machine can read
        updating = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"} if self._slots else {}
        return Launch(
            argv=argv,
            env=env | updating | settings.model.vllm_env | serving.env | only(devices),
            api_key=api_key,
            host=serving.host,
            port=serving.port,
            models={name: name for name in base_names(settings)} | at_start,
            later=self._names if self._slots else {},
            startup_timeout=serving.startup_timeout,
            name=own_name,
            phases=PHASES,
            hints=HINTS,
        )


def program(serving: VllmServing) -> list[str]:
    """What runs vLLM's API server.

    Raises:
        UserError: no vLLM is installed where the settings say.
    """
    return shlex.split(serving.command) if serving.command else [find_python(serving), *API_SERVER]


def arguments(settings: Settings, own_name: str, devices: Sequence[str]) -> list[str]:
    """vLLM's command line for the base model."""
    model, serving = settings.model, settings.serving
    assert isinstance(serving, VllmServing)
    tensor_parallel = serving.gpus_per_copy(len(devices))
    options = {
        "--model": model.base_model,
        "--revision": model.revision,
        "--dtype": model.dtype,
        "--max-model-len": model.max_model_len,
        "--seed": settings.seed,
        "--gpu-memory-utilization": serving.gpu_memory_utilization,
        "--max-num-seqs": serving.max_num_seqs,
        "--tensor-parallel-size": tensor_parallel if tensor_parallel > 1 else None,
        "--data-parallel-size": serving.data_parallel_size if serving.data_parallel_size > 1 else None,
        "--quantization": None if settings.quantization.kind == "none" else settings.quantization.kind,
        "--reasoning-parser": model.reasoning_parser,
    }
    tools = model.tool_call_parser not in (None, "none")
    return [
        *(f"{option}={value}" for option, value in options.items() if value is not None),
        *(["--trust-remote-code"] if model.trust_remote_code else []),
        *(["--enable-auto-tool-choice", f"--tool-call-parser={model.tool_call_parser}"] if tools else []),
        *("--served-model-name", *base_names(settings), own_name),
    ]


def lora_arguments(settings: Settings, at_start: Mapping[str, str]) -> list[str]:
    """Options that make room for the adapters; ``at_start`` (served name by arm) are loaded before it serves."""
    serving = settings.serving
    assert isinstance(serving, VllmServing)
    arms = [arm for arm in settings.adapters if arm.path is not None]
    if not arms:
        return []
    found = adapters.examine(arms, settings.model)
    rank = max(each.adapter.config.largest_rank for each in found if each.adapter)
    modules = [json.dumps({"name": at_start[arm.name], "path": arm.path}) for arm in arms if arm.name in at_start]
    slots = min(serving.slots, len(arms))
    return [
        "--enable-lora",
        f"--max-lora-rank={min(allowed for allowed in adapters.LORA_RANKS if allowed >= rank)}",
        # one more: with as many slots as adapters, rows of the base model were given an adapter's delta (vllm#48421)
        f"--max-loras={slots + 1}",
        *_target_modules(found, settings),
        *(["--lora-modules", *modules] if modules else []),
    ]


def _target_modules(found: Sequence[adapters.Examined], settings: Settings) -> list[str]:
    """The modules that adapters change, of a mixture of experts in which they change no expert.

    vLLM would make room for every adapter at every expert: 6.6 GB each at rank 64 for Qwen3-Coder-30B (calculated).
    """
    modules = {module for each in found if each.adapter for module in each.adapter.pairs}
    if not adapters.read_base(settings.model).is_moe or any(".experts" in module for module in modules):
        return []
    return ["--lora-target-modules", *sorted({module.rpartition(".")[2] for module in modules})]
