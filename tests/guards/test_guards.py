from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys

import pytest

from tests.guards.network import NetworkForbiddenError, is_local
from tests.guards.services import listens, need_service

# From the block RFC 5737 keeps for documentation: nothing answers there even if the guard fails.
OUTSIDE = "192.0.2.1"


def test_a_connection_that_leaves_the_machine_is_refused() -> None:
    with socket.socket() as probe, pytest.raises(NetworkForbiddenError, match="loopback"):
        probe.connect((OUTSIDE, 80))


def test_a_name_outside_the_machine_is_not_resolved() -> None:
    with pytest.raises(NetworkForbiddenError, match=r"example\.invalid"):
        socket.getaddrinfo("example.invalid", 443)


async def test_an_async_connection_that_leaves_the_machine_is_refused() -> None:
    with pytest.raises(NetworkForbiddenError):
        await asyncio.open_connection(OUTSIDE, 80)


def test_a_connection_to_loopback_is_allowed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


@pytest.mark.parametrize("host", [None, "", "localhost", "127.0.0.1", b"127.8.8.8", "::1", "::1%lo"])
def test_names_of_this_machine_are_local(host: object) -> None:
    assert is_local(host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "10.0.0.1", "::", "localhost.example.invalid", "127.0.0.1.example.invalid"]
)
def test_other_names_are_not_local(host: str) -> None:
    assert not is_local(host)


def test_a_missing_service_fails_the_test_in_ci_and_skips_it_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listens(port)
        need_service("Something", port)

    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=f"Something is not running on 127.0.0.1:{port}"):
        need_service("Something", port)
    monkeypatch.delenv("CI")
    with pytest.raises(pytest.skip.Exception, match="Something is not running"):
        need_service("Something", port)


def test_the_fast_suite_cannot_import_airflow() -> None:
    code = "from tests.guards.imports import forbid_airflow; forbid_airflow(); import airflow.sdk"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, check=False)

    assert done.returncode == 1
    assert "must run without Airflow" in done.stderr


def test_the_core_can_be_imported_without_airflow() -> None:
    code = (
        "from tests.guards.imports import forbid_airflow; forbid_airflow()\n"
        "import airflow_provider_segmind, airflow_provider_segmind.exceptions\n"
        "import airflow_provider_segmind.client, airflow_provider_segmind.enrichment, airflow_provider_segmind.emulator"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
