"""Which arms share a server: the base model and every adapter it can apply; one that must be merged has its own.

Servers run one after another, or at once where there are enough GPUs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from swe_eval import adapters
from swe_eval.merging import applied
from swe_eval.serving.devices import visible_devices
from swe_eval.serving.endpoint import Endpoint
from swe_eval.serving.external import connect_external, key_of
from swe_eval.serving.server import Server
from swe_eval.serving.supervised import free_port
from swe_eval.serving.transformers import transformers_server
from swe_eval.serving.vllm import VllmServer
from swe_eval.serving.vllm_env import TESTED, find_python, vllm_version
from swe_eval.settings import AdapterSettings, ManyLora, Settings

Round = Sequence[Settings]
"""Servers that run at once: for each of them the settings with its own arms alone."""


def rounds(settings: Settings) -> list[Round]:
    """All servers of a run, in the order of its arms."""
    servers = parts(settings)
    if len(servers) == 1:
        return [servers]
    assert settings.serving.kind != "external", "merges nothing"
    at_once = max(1, len(visible_devices()) // settings.serving.min_devices)
    return [servers[first : first + at_once] for first in range(0, len(servers), at_once)]


def parts(settings: Settings) -> list[Settings]:
    """Per server, the settings with its arms alone."""
    merged = adapters.to_merge(settings)
    beside = [arm for arm in settings.adapters if arm.name not in merged]
    alone = [arm for arm in settings.adapters if arm.name in merged]
    if not alone or len(settings.adapters) == 1:
        return [settings]
    return [with_arms(settings, arms) for arms in ([beside] if beside else []) + [[arm] for arm in alone]]


def with_arms(settings: Settings, arms: Sequence[AdapterSettings]) -> Settings:
    """The settings of these arms alone."""
    lora = settings.lora
    if lora.kind == "none" or len(arms) == len(settings.adapters):
        return settings
    some = ManyLora(kind="list", apply=lora.apply, proof=lora.proof, adapters=tuple(arms))
    return settings.model_copy(update={"lora": some})


def takes_turns(together: Round) -> bool:
    """Whether an arm may have to wait until no trial uses another arm's adapter any more."""
    return any(
        part.serving.kind == "vllm" and part.serving.slots < sum(arm.path is not None for arm in part.adapters)
        for part in together
    )


def arms_of(together: Round) -> list[AdapterSettings]:
    """Of all its servers."""
    return [arm for part in together for arm in part.adapters]


def preflight(settings: Settings) -> str:
    """Make sure that the server's program and address are there, or the key of one that runs; returns what it is.

    Raises:
        UserError: they are not; one line.
    """
    serving = settings.serving
    if serving.kind == "external":
        key_of(serving)
    else:
        free_port(serving.host)
    if serving.kind != "vllm":
        return serving.kind
    if serving.command:
        return serving.command
    found = vllm_version(serving)
    note = "" if found == TESTED else f" (measured with {TESTED})"
    return f"vLLM {found}{note} in {find_python(serving)}"


@contextmanager
def serve(together: Round, log: Path, say: Callable[[str], None]) -> Iterator[Server]:
    """Serve every arm of a round; on entry each has answered once, on exit everything is stopped.

    Args:
        log: file that takes the output of a server that we start (appended; nothing is written for an external one);
            of several servers, each has one of its own beside it.
        say: takes one line of progress at a time.

    Raises:
        UserError: the settings name something that is not there.
        ServingError: the server does not start, or does not answer; says why and what to change.
    """
    if len(together) == 1:
        with _start(together[0], None, log, say) as server:
            yield server
        return
    devices = visible_devices()
    each = len(devices) // len(together)
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for index, part in enumerate(together):
            own = devices[index * each : (index + 1) * each]
            named = log.with_stem(f"{log.stem}.{part.adapters[-1].name}")
            server = stack.enter_context(_start(part, own, named, say))
            servers |= dict.fromkeys(server.endpoints, server)
        yield SeveralServers(servers)


class SeveralServers(Server):
    """Each arm on its own server."""

    def __init__(self, servers: Mapping[str, Server]) -> None:
        self._servers = servers

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:  # type: ignore[override]
        return {arm: server.endpoints[arm] for arm, server in self._servers.items()}

    def using(self, arm: str) -> AbstractContextManager[Endpoint]:
        return self._servers[arm].using(arm)

    def check(self) -> None:
        for server in self._servers.values():
            server.check()

    def recovered(self, arm: str, failed: Endpoint) -> bool:
        return self._servers[arm].recovered(arm, failed)


def _start(
    settings: Settings, devices: Sequence[str] | None, log: Path, say: Callable[[str], None]
) -> AbstractContextManager[Server]:
    start = _SERVERS[settings.serving.kind]
    return start(applied(settings, say), devices, log, say)


_Start = Callable[[Settings, "Sequence[str] | None", Path, Callable[[str], None]], AbstractContextManager[Server]]
_SERVERS: dict[str, _Start] = {
    "transformers": transformers_server,
    "vllm": VllmServer,
    "external": connect_external,
}
"""``devices`` are those that a server is to keep to; None leaves it all that is visible."""
