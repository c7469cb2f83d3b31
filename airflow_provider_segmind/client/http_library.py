"""Which HTTP library is used, and how it is set up."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Iterable
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import httpx as httpx
else:
    # The maintained fork of httpx, with the same interface; every module that needs either takes it from here.
    try:
        import httpx2 as httpx

        # With an older Airflow, another package may install it in a version with which this package is not tested.
        if tuple(map(int, version("httpx2").split(".")[:2])) < (2, 13):
            raise ImportError("httpx2 is older than 2.13")
    except (ImportError, ValueError):  # A pre-release has letters in its version.
        import httpx

CONNECT_TIMEOUT = 10.0
"""Seconds within which a host must be reached; otherwise nothing was sent."""


@functools.cache
def shared_tls() -> ssl.SSLContext:
    """Return the one TLS context of the process; building one costs tens of milliseconds and half a megabyte."""
    return httpx.create_ssl_context()


@functools.lru_cache(maxsize=16)
def http_timeout(seconds: float) -> httpx.Timeout:
    """
    Return httpx's timeouts for a call that may take ``seconds``.

    Waiting for a free connection, TCP and TLS (``connect`` each) together end before ``seconds`` do, so that a call
    that ran out of time as a whole may always have been sent.
    """
    return httpx.Timeout(seconds, connect=min(CONNECT_TIMEOUT, seconds / 4), pool=seconds / 3)


def response_headers(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return headers with lower-case names; those that come twice are joined."""
    found: dict[str, str] = {}
    for name, value in items:
        lower = name.lower()
        found[lower] = f"{found[lower]}, {value}" if lower in found else value
    return found
