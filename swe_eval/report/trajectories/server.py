"""``--serve``: a run's page, data made on request, and raw files, served to this machine alone."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from swe_eval.errors import UserError
from swe_eval.report.results import Arm, Seen, collect, last_changed
from swe_eval.report.trajectories import PAGE
from swe_eval.report.trajectories.data import Shown, index_of, instance_of
from swe_eval.report.trajectories.write import DATA, INDEX, page, script
from swe_eval.run_dir import Trial

HOST = "127.0.0.1"
TEXT = ("diff", "txt", "log", "jsonl", "yaml", "md")


class Live:
    """The page's data, for a run that may still be at work: a trial is read again when its files have changed."""

    def __init__(self, shown: Shown, known: Iterable[Arm]) -> None:
        self._shown, run = shown, shown.run
        verdicts = {(arm.name, key): verdict for arm in known for key, verdict in arm.verdicts.items()}
        self._seen: Seen = {
            run.report(trial): (last_changed(run, trial), verdicts[trial.arm, trial.instance_id])
            for trial in shown.trials
            if (trial.arm, trial.instance_id) in verdicts
        }

    def data(self, name: str) -> str | None:
        """The data file of this name; None if there is none."""
        if name == INDEX:
            return script(INDEX, index_of(self._shown, self._arms(self._shown.trials)))
        arms = self._arms([trial for trial in self._shown.trials if trial.instance_id == name])
        verdicts = {arm.name: arm.verdicts[name] for arm in arms}
        return script("instance", instance_of(self._shown, name, verdicts)) if arms else None

    def _arms(self, trials: Sequence[Trial]) -> list[Arm]:
        return collect(self._shown.run, trials, self._seen)


def make_server(shown: Shown, known: Iterable[Arm] = (), port: int = 0) -> ThreadingHTTPServer:
    """A server on the loopback interface.

    Args:
        shown: the run.
        known: arms with verdicts that are already known; the others are read on request.
        port: 0 for any free port.

    Raises:
        UserError: the port is taken.
    """
    live, root = Live(shown, known), str(shown.run.root)

    class Handler(_Handler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, live=live, directory=root)

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise UserError(f"--port {port}: {error.strerror}; write another, or leave it out for a free one") from None


def serve(shown: Shown, known: Iterable[Arm], port: int) -> None:
    """Serve until Ctrl-C; arguments as for ``make_server``."""
    with make_server(shown, known, port) as server:
        print(f"http://{HOST}:{server.server_port}/{PAGE} until Ctrl-C", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print(file=sys.stderr)


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args: Any, live: Live, **kwargs: Any) -> None:
        self._live = live
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        path = PurePosixPath(unquote(urlsplit(self.path).path))
        if not self._is_asked_by_name():
            self.send_error(421, "Ask by 127.0.0.1 or localhost")
        elif path == PurePosixPath("/"):
            self.send_response(302)
            self.send_header("Location", f"/{PAGE}")
            self.end_headers()
        elif path == PurePosixPath(f"/{PAGE}"):
            self._send(page(), "text/html")
        elif path.parent == PurePosixPath(f"/{DATA}") and path.suffix == ".js":
            data = self._live.data(path.name.removesuffix(".js"))
            self.send_error(404) if data is None else self._send(data, "text/javascript")
        else:
            super().do_GET()

    def _is_asked_by_name(self) -> bool:
        """Guard against DNS rebinding: a page elsewhere could have its own host name point here, and read the run."""
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        return host in (HOST, "localhost")

    def _send(self, text: str, kind: str) -> None:
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def guess_type(self, path: Any) -> str:
        """Have browsers show raw files, not download them."""
        suffix = PurePosixPath(str(path)).suffix[1:]
        return "text/plain; charset=utf-8" if suffix in TEXT else super().guess_type(path)

    def log_message(self, format: str, *args: Any) -> None:
        pass
