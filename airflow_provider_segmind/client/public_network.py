"""
Reach public hosts only: what a result names is looked up, checked, and connected to at the address that was checked.

A result can name any address, and around a worker the cloud's metadata service and a company's own services answer
without a password. So every connection of a download, after each redirect as well, goes through
:class:`PublicNetwork`: the name is looked up once, every address found must be public, and the connection is made to
one of them and not to the name, which could lead elsewhere a moment later.

Sources: IANA's special-purpose registries of IPv4 and IPv6 addresses; RFC 4291, 6052, 8215, 3056 and 4380 for IPv6
addresses that hold an IPv4 address.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

import httpcore
import httpx

from airflow_provider_segmind.client.transport_errors import shared_tls

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
LookUp: TypeAlias = Callable[[str, int], list[str]]
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        # Azure's host agent answers at a public address.
        "168.63.129.16/32",
        *("::/128", "::1/128", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16"),
        *("fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
    )
)
# Where in an IPv6 address an IPv4 address stands: the network, and how many bits follow it.
_HOLDING_IPV4: tuple[tuple[ipaddress.IPv6Network, int], ...] = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), 0),
    (ipaddress.IPv6Network("::/96"), 0),
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),
    (ipaddress.IPv6Network("2002::/16"), 80),
)
_NUMBERS = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}", re.IGNORECASE)


class RefusedAddressError(Exception):
    """A name leads to an address that is not public; says which host, and why."""


def why_not_public(text: str) -> str | None:
    """
    Say why an address is not fetched from, None when it is public.

    :param text: an address as a look-up returns it.
    """
    try:
        address: Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return "it is not an IP address"
    if isinstance(address, ipaddress.IPv6Address):
        for network, after in _HOLDING_IPV4:
            if address in network and int(address) > 1:
                inner = ipaddress.IPv4Address((int(address) >> after) & 0xFFFFFFFF)
                why = why_not_public(str(inner))
                return f"it leads to {inner}: {why}" if why else None
    inside = next((network for network in _NOT_PUBLIC if address in network), None)
    if inside is not None:
        return f"{address} is in {inside}, which is not public"
    return None if address.is_global else f"{address} is not public"


def look_up(host: str, port: int) -> list[str]:
    """
    Return every address of a host, in the order in which to try them; other spellings of a number are read as well.

    :raises httpcore.ConnectError: there is none.
    """
    name = _plain(host)
    with contextlib.suppress(ValueError):
        return [str(ipaddress.ip_address(name))]
    if _NUMBERS.fullmatch(name):
        # What libc reads as an IPv4 address: one number, fewer than four, octal or hexadecimal ones.
        with contextlib.suppress(OSError):
            return [socket.inet_ntoa(socket.inet_aton(name))]
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpcore.ConnectError(str(error)) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def check_public(host: str, port: int, *, look_up: LookUp = look_up) -> list[str]:
    """
    Return the addresses of a host, all of which are public.

    :raises RefusedAddressError: one is not.
    :raises httpcore.ConnectError: it has none.
    """
    found = look_up(host, port)
    for address in found:
        why = why_not_public(address)
        if why is not None:
            raise RefusedAddressError(f"host {host!r} is not fetched from, because {why}")
    return found


class PublicNetwork(httpcore.NetworkBackend):
    """
    Connects to public addresses.

    :param allowed: hosts and ports that are reached wherever they are.
    """

    def __init__(self, allowed: Iterable[tuple[str, int]] = (), *, look_up: LookUp = look_up) -> None:
        self._allowed = frozenset((same_host(host), port) for host, port in allowed)
        self._look_up = look_up
        self._sockets = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """
        Connect to an address that was checked.

        :raises RefusedAddressError: one of the host's addresses is not public.
        """
        addresses = (
            [host] if (same_host(host), port) in self._allowed else check_public(host, port, look_up=self._look_up)
        )
        trouble: Exception = httpcore.ConnectError("the host has no address")
        for address in addresses:
            try:
                return self._sockets.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                trouble = error
        raise trouble


class PublicTransport(httpx.BaseTransport):
    """
    Carries the requests of :class:`httpx.Client` over a network that checks where it connects.

    httpx's own transport takes no network of the caller's.
    """

    def __init__(self, network: httpcore.NetworkBackend) -> None:
        self._pool = httpcore.ConnectionPool(ssl_context=shared_tls(), max_connections=4, network_backend=network)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return the response, its body unread."""
        with _in_httpx_words():
            response = self._pool.handle_request(
                httpcore.Request(
                    method=request.method,
                    url=httpcore.URL(
                        scheme=request.url.raw_scheme,
                        host=request.url.raw_host,
                        port=request.url.port,
                        target=request.url.raw_path,
                    ),
                    headers=request.headers.raw,
                    content=request.read(),
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            status_code=response.status,
            headers=response.headers,
            stream=_Stream(response),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


class _Stream(httpx.SyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    def __iter__(self) -> Iterator[bytes]:
        with _in_httpx_words():
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._response.close()


@contextlib.contextmanager
def _in_httpx_words() -> Iterator[None]:
    """Raise httpx's error for one of httpcore, which has the same name."""
    try:
        yield
    except (
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.TimeoutException,
        httpcore.UnsupportedProtocol,
    ) as error:
        kind: type[httpx.HTTPError] = getattr(httpx, type(error).__name__)
        raise kind(str(error)) from error


def same_host(host: str) -> str:
    """Return one name for a host, whichever of the usual ones it is given by."""
    name = _plain(host)
    return "localhost" if name in ("127.0.0.1", "::1") else name


def _plain(host: str) -> str:
    return host.lower().strip("[]").rstrip(".")
