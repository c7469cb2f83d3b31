"""
Download from public hosts only: a host is looked up, its addresses are checked, and one of those is connected to.

A result can name any address, and near a worker the cloud's metadata service and a company's internal services respond
without a password. So every connection of a download, after each redirect too, goes through
:class:`PublicTransport`: the name is looked up once, every address found must be public, and the connection is made to
one of them and not to the name, which could lead elsewhere a moment later.

Sources: IANA's special-purpose registries of IPv4 and IPv6 addresses; RFC 4291, 6052, 8215, 3056 and 4380 for IPv6
addresses that contain an IPv4 address.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Callable, Iterable
from typing import TypeAlias

from airflow_provider_segmind.client.http_library import httpx, shared_tls

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
HostLookUp: TypeAlias = Callable[[str, int], list[str]]
_NOT_PUBLIC = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        # Azure's host agent responds at a public address.
        "168.63.129.16/32",
        *("::/128", "::1/128", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16"),
        *("fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
    )
)
# IPv6 networks whose addresses contain an IPv4 address, and how many bits follow it.
_CONTAINING_IPV4: tuple[tuple[ipaddress.IPv6Network, int], ...] = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), 0),
    (ipaddress.IPv6Network("::/96"), 0),
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),
    (ipaddress.IPv6Network("2002::/16"), 80),
)
_NUMBERS = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+)){0,3}", re.IGNORECASE)


class RefusedAddressError(Exception):
    """A host has an address that is not public; the message says which host, and why."""


def why_not_public(text: str) -> str | None:
    """Return why nothing is downloaded from an address, None when it is public."""
    try:
        address: Address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return "it is not an IP address"
    if isinstance(address, ipaddress.IPv6Address):
        for network, after in _CONTAINING_IPV4:
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
    Return every address of a host, in the order in which to try them; other notations of an IPv4 address are read too.

    :raises httpx.ConnectError: there is none.
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
        raise httpx.ConnectError(str(error)) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def check_public(host: str, port: int, *, look_up: HostLookUp = look_up) -> list[str]:
    """
    Return the addresses of a host, all of which are public.

    :raises RefusedAddressError: one is not.
    :raises httpx.ConnectError: it has none.
    """
    found = look_up(host, port)
    for address in found:
        why = why_not_public(address)
        if why is not None:
            raise RefusedAddressError(f"downloads from host {host!r} are not allowed, because {why}")
    return found


class PublicTransport(httpx.BaseTransport):
    """
    Sends the requests of :class:`httpx.Client` to public addresses.

    :param allowed: hosts and ports that are reached whatever their addresses are.
    """

    def __init__(self, allowed: Iterable[tuple[str, int]] = (), *, look_up: HostLookUp = look_up) -> None:
        self._allowed = frozenset((same_host(host), port) for host, port in allowed)
        self._look_up = look_up
        self._transport = httpx.HTTPTransport(verify=shared_tls(), trust_env=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """
        Send a request to a checked address, under the name that was resolved.

        :raises RefusedAddressError: one of the host's addresses is not public.
        """
        host = request.url.raw_host.decode("ascii")
        port = request.url.port or (443 if request.url.scheme == "https" else 80)
        if (same_host(host), port) in self._allowed:
            return self._transport.handle_request(request)
        failure: Exception = httpx.ConnectError("the host has no address")
        for address in check_public(host, port, look_up=self._look_up):
            # The Host header and the name that the certificate must be for stay those of the URL.
            to_address = httpx.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                return self._transport.handle_request(to_address)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                failure = error
        raise failure

    def close(self) -> None:
        """Close the connections."""
        self._transport.close()


def same_host(host: str) -> str:
    """Return one name for a host that may be written in several ways."""
    name = _plain(host)
    return "localhost" if name in ("127.0.0.1", "::1") else name


def _plain(host: str) -> str:
    return host.lower().strip("[]").rstrip(".")
