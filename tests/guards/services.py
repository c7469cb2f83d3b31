"""Report which service a test needs if it is not running on this machine."""

from __future__ import annotations

import os
import socket

import pytest


def listens(port: int) -> bool:
    """Return whether something accepts connections on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def need_service(name: str, port: int) -> None:
    """
    Skip the running test if a service is missing; in CI, fail it.

    :param name: the name of the service.
    :param port: its port on 127.0.0.1.
    """
    if listens(port):
        return
    message = f"{name} is not running on 127.0.0.1:{port}."
    if os.environ.get("CI") == "true":
        pytest.fail(f"{message} CI must have it.", pytrace=False)
    pytest.skip(message)
