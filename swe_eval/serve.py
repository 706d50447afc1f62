"""``python -m swe_eval.serve``: the server alone, for curl and other clients, until Ctrl-C."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console

from swe_eval import adapters, command
from swe_eval.errors import ServingError, UserError
from swe_eval.serving.parts import parts, preflight, serve, takes_turns
from swe_eval.serving.proof import Prover
from swe_eval.serving.server import Server
from swe_eval.settings import Settings


def main() -> None:
    """Console entry point."""
    command.run(_serve)


def _serve(settings: Settings) -> int:
    if settings.serving.kind == "external":
        raise UserError("serving=external: that server already runs; write serving=vllm or serving=transformers")
    if len(servers := parts(settings)) > 1:
        merged = [part.adapters[0].name for part in servers[1:]]
        raise UserError(f"lora: {merged[0]} must be merged, which takes a server of its own: write lora=adapter")
    if takes_turns(servers):
        count = sum(arm.path is not None for arm in settings.adapters)
        raise UserError(f"serving.max_loras: too few for {count} adapters at once; write {count}, or fewer adapters")
    preflight(settings)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    for warning in adapters.check(settings):
        console.print(warning)
    with (
        suppress(KeyboardInterrupt),  # the way to end it; around the rest, so that another one leaves nothing behind
        _log_folder() as folder,
        serve(servers, folder / "server.log", console.print) as server,
    ):
        if proof := Prover(settings).prove(server):
            from swe_eval.report.tables import print_proof  # late: scipy takes half a second

            print_proof(console, proof.as_json())
        console.print(how_to_use(server))
        while True:
            server.check()
            time.sleep(1)
    return command.OK


@contextmanager
def _log_folder() -> Iterator[Path]:
    """A directory that stays where the server fails, for what is said then names the log."""
    folder, is_to_stay = Path(tempfile.mkdtemp(prefix="swe_eval-serve-")), False
    try:
        yield folder
    except ServingError:
        is_to_stay = True
        raise
    finally:
        if not is_to_stay:
            shutil.rmtree(folder, ignore_errors=True)


def how_to_use(server: Server) -> str:
    """Base URL, key, served names, and a command to paste."""
    *_, last = endpoints = list(server.endpoints.values())
    request = {"model": last.model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 32}
    curl = [
        *("curl", f"{last.base_url}/chat/completions", "-H", f"Authorization: Bearer {last.api_key}"),
        *("-H", "Content-Type: application/json", "-d", json.dumps(request)),
    ]
    return "\n".join(
        [
            f"base URL  {last.base_url}",
            f"API key   {last.api_key}",
            f"models    {', '.join(endpoint.model for endpoint in endpoints)}",
            shlex.join(curl),
            "Ctrl-C stops it.",
        ]
    )


if __name__ == "__main__":
    main()
