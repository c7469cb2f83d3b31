"""Refuse every connection that leaves this machine, for the whole test process."""

from __future__ import annotations

import ipaddress
import sys
from typing import Any

LOCAL_NAMES = frozenset({"", "localhost", "localhost.localdomain"})


class NetworkForbiddenError(RuntimeError):
    """
    A test tried to leave the machine.

    Not an :class:`OSError`: code under test that handles connection errors must not swallow it.
    """


def is_local(host: object) -> bool:
    """Return whether a host given to the socket module is on this machine."""
    if host is None:
        return True
    name = host.decode() if isinstance(host, (bytes, bytearray)) else str(host)
    if name in LOCAL_NAMES:
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not event.startswith("socket."):
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]
        # A string or bytes is the path of a Unix socket; None is a datagram on a connected socket.
        if isinstance(address, tuple) and not is_local(address[0]):
            raise NetworkForbiddenError(f"A test tried to reach {address[0]!r}; tests may only use loopback.")
    elif event == "socket.getaddrinfo" and not is_local(args[0]):
        raise NetworkForbiddenError(f"A test tried to resolve {args[0]!r}; tests may only use loopback.")


def forbid() -> None:
    """Install the guard as an audit hook, which tests cannot remove or patch."""
    sys.addaudithook(_audit)
