"""``SWE_EVAL_API_KEY=... python -m swe_eval.serving.app --model DIR --adapter NAME=DIR --port 8080``."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys
from dataclasses import fields

PARSERS = ["auto", "hermes", "qwen3_coder", "gigachat3", "none"]

GRACE = 5
"""Seconds to finish requests after SIGTERM; whoever started the server may kill it after ten (``guard.GRACE``)."""


def main() -> None:
    """Load the model and serve it until SIGTERM or SIGINT; exit code 1 and one line if that cannot be done."""
    args = _parse()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # 8bit: a warning per matrix product
    key = os.environ.get("SWE_EVAL_API_KEY") or sys.exit("error: SWE_EVAL_API_KEY: set it to the clients' key")
    with _listener(args.host, args.port) as listener:
        _serve(args, key, listener)


def _listener(host: str, port: int) -> socket.socket:
    """Bound before anything is loaded, so that a port in use is reported at once."""
    try:
        return socket.create_server((host, port))
    except OSError as error:
        sys.exit(f"error: {host}:{port}: {error}")


def _serve(args: argparse.Namespace, key: str, listener: socket.socket) -> None:
    import uvicorn

    from swe_eval.serving.app.engine import Engine
    from swe_eval.serving.app.http import create_app
    from swe_eval.serving.app.tools import parser_named
    from swe_eval.serving.app.weights import CannotServe, Source, load

    source = Source(**{field.name: getattr(args, field.name) for field in fields(Source)})
    adapters = dict(args.adapter)
    try:
        weights = load(source, adapters, args.base_name or ([] if adapters else [args.model]))
    except CannotServe as error:
        sys.exit(f"error: {error}")
    engine = Engine(weights, args.prefix_cache_bytes, args.max_running, args.max_waiting)
    app = create_app(engine, key, parser_named(args.tool_call_parser, str(weights.tokenizer.chat_template)))
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=GRACE)
    uvicorn.Server(config).run(sockets=[listener])


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m swe_eval.serving.app", description=main.__doc__)
    parser.add_argument("--model", required=True, help="hub id or directory of the base model")
    parser.add_argument("--revision", help="hub revision of the base model")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float16", "float32"])
    parser.add_argument("--max-model-len", type=int, help="context in tokens; default: the model's own")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--adapter", type=_name_and_path, action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--base-name", action="append", help="serve the bare base model under this name")
    parser.add_argument("--quantization", default="none", choices=["none", "8bit", "4bit"])
    parser.add_argument("--tool-call-parser", default="auto", choices=PARSERS, help="auto: by the chat template")
    parser.add_argument("--prefix-cache-bytes", type=int, help="of the device; default: a part of what is free")
    parser.add_argument("--max-running", type=int, default=32, help="requests computed at once")
    parser.add_argument("--max-waiting", type=int, default=256, help="requests in the queue; more are refused")
    parser.add_argument("--gpu-memory-utilization", type=float, default=1.0, help="fraction of the device's memory")
    parser.add_argument("--trust-remote-code", action="store_true")
    return parser.parse_args()


def _name_and_path(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=PATH")
    return name, path


if __name__ == "__main__":
    main()
