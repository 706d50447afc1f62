"""``serving=transformers``: our own server (``app/``) in a supervised process, base and adapters in one copy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from swe_eval import adapters
from swe_eval.serving.devices import only
from swe_eval.serving.supervised import Launch, SupervisedServer
from swe_eval.settings import Settings, TransformersServing


def transformers_server(
    settings: Settings, devices: Sequence[str] | None, log: Path, say: Callable[[str], None]
) -> SupervisedServer:
    """The server, not yet started."""
    serving = settings.serving
    assert isinstance(serving, TransformersServing)
    api_key = serving.key()
    command, contents = _argv(settings), {arm: adapters.content_hash(arm) for arm in settings.adapters}

    def argv(port: int) -> list[str]:
        for arm, content in contents.items():
            adapters.refuse_changed(arm, content)
        return [*command, f"--host={serving.host}", f"--port={port}"]

    launch = Launch(
        argv=argv,
        env={"SWE_EVAL_API_KEY": api_key} | only(devices),  # not in argv, which every user of the machine can read
        api_key=api_key,
        host=serving.host,
        port=serving.port,
        models={name: name for name in [*base_names(settings), *(a.name for a in settings.adapters if a.path)]},
        startup_timeout=serving.startup_timeout,
    )
    return SupervisedServer(launch, log, say)


def _argv(settings: Settings) -> list[str]:
    model, serving = settings.model, settings.serving
    assert isinstance(serving, TransformersServing)
    options = {
        "--model": model.base_model,
        "--revision": model.revision,
        "--dtype": model.dtype,
        "--max-model-len": model.max_model_len,
        "--device": serving.device,
        "--gpu-memory-utilization": serving.gpu_memory_utilization,
        "--quantization": settings.quantization.kind,
        "--prefix-cache-bytes": None if serving.prefix_cache_gb is None else int(serving.prefix_cache_gb * 10**9),
        "--tool-call-parser": model.tool_call_parser,
    }
    return [
        *(sys.executable, "-m", "swe_eval.serving.app"),
        *(f"{option}={value}" for option, value in options.items() if value is not None),
        *(["--trust-remote-code"] if model.trust_remote_code else []),
        *(f"--base-name={name}" for name in base_names(settings)),
        *(f"--adapter={a.name}={a.path}" for a in settings.adapters if a.path is not None),
    ]


def base_names(settings: Settings) -> list[str]:
    """Names of the bare base model: those arms' without an adapter, else its own id, for the proof to compare with."""
    return [a.name for a in settings.adapters if a.path is None] or [settings.model.base_model]
