"""``python -m airflow_provider_segmind.emulator``: an offline Segmind in the foreground."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

_MISSING = (
    "The emulator needs starlette and uvicorn: pip install 'airflow-provider-segmind[emulator]' (missing: {name})."
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_provider_segmind.emulator",
        description="Serve an offline Segmind for tests; not the service: see how-to/emulator in the documentation.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port; 0 takes a free one (default)")
    parser.add_argument("--api-key", action="append", dest="api_keys", metavar="KEY", help="accepted key; repeatable")
    parser.add_argument("--latency", type=float, help="seconds a request runs (default: 0)")
    parser.add_argument("--queue-time", type=float, help="seconds a request stays QUEUED (default: 0)")
    parser.add_argument("--ttl", type=float, help="seconds a result stays readable (default: 3600)")
    parser.add_argument("--rpm", type=int, help="requests per minute and key (default: no limit)")
    parser.add_argument("--rpm-counts-gets", action="store_true", default=None, help="count polls too")
    parser.add_argument("--balance", type=float, help="USD on each key (default: 100)")
    parser.add_argument("--public-url", help="origin written into status_url and response_url (default: its own)")
    parser.add_argument("--prefix", help="path prefix of the gateway, as behind a proxy")
    parser.add_argument("--scale", type=float, default=1.0, help="emulated seconds in a second (default: 1)")
    parser.add_argument(
        "--no-record", action="store_false", dest="record_requests", default=None, help="do not keep requests"
    )
    parser.add_argument("--set", action="append", default=[], metavar="NAME=JSON", help="any other setting; repeatable")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGINT or SIGTERM; return 0 then, 2 for invalid arguments or a missing extra."""
    parser = _parser()
    options = vars(parser.parse_args(argv))
    host, port, scale = options.pop("host"), options.pop("port"), options.pop("scale")
    pairs = [pair.partition("=") for pair in options.pop("set")]
    settings = {name: value for name, value in options.items() if value is not None}
    try:
        settings |= {name: json.loads(value) for name, _, value in pairs}
    except ValueError as problem:
        parser.error(f"--set takes NAME=JSON: {problem}")
    try:
        from airflow_provider_segmind.emulator.server import SegmindEmulator
    except ModuleNotFoundError as problem:
        parser.exit(2, _MISSING.format(name=problem.name) + "\n")
    try:
        emulator = SegmindEmulator(host=host, port=port, scale=scale, **settings)
    except ValueError as problem:
        parser.error(str(problem))

    def announce() -> None:
        how = f"export AIRFLOW_CONN_SEGMIND_DEFAULT='{emulator.connection_json}'"
        sys.stdout.write(
            f"Segmind emulator on {emulator.url} (API key {emulator.api_key}). Point Airflow at it:\n{how}\n"
        )
        sys.stdout.flush()

    try:
        emulator.serve_forever(announce)
    except (OSError, OverflowError) as problem:
        parser.exit(2, f"cannot listen on {host}:{port}: {problem}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
