"""Say plainly which service of this machine a test needs and does not find."""

from __future__ import annotations

import os
import socket

import pytest


def listens(port: int) -> bool:
    """Tell whether something accepts connections on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def need_service(name: str, port: int) -> None:
    """
    Skip the running test when a service is missing; in CI, fail it.

    :param name: what people call the service.
    :param port: where it listens on 127.0.0.1.
    """
    if listens(port):
        return
    message = f"{name} is not running on 127.0.0.1:{port}."
    if os.environ.get("CI") == "true":
        pytest.fail(f"{message} CI must have it.", pytrace=False)
    pytest.skip(message)
