from __future__ import annotations

import subprocess
import sys

import pytest

from airflow_provider_segmind.client.http_library import http_timeout, response_headers, shared_tls


@pytest.mark.parametrize("seconds", [0.3, 5.0, 60.0, 900.0])
def test_a_call_that_exceeds_its_timeout_was_sent(seconds: float) -> None:
    timeout = http_timeout(seconds)
    assert timeout.pool is not None
    assert timeout.connect is not None

    # Connecting is TCP and TLS, and each may take all of its timeout.
    assert timeout.pool + 2 * timeout.connect < seconds
    assert timeout.read == timeout.write == seconds
    assert timeout.connect <= 10


def test_certificates_are_read_once() -> None:
    assert shared_tls() is shared_tls()


def test_header_names_are_lower_case_and_repeated_headers_are_joined() -> None:
    pairs = [("X-Cost", "0.05"), ("Retry-After", "1"), ("Via", "a"), ("via", "b")]

    assert response_headers(pairs) == {"x-cost": "0.05", "retry-after": "1", "via": "a, b"}


@pytest.mark.parametrize(
    ("installed", "used"), [("2.12.9", "httpx"), ("2.13b1", "httpx"), ("2.13.0", "httpx2"), ("3.0.0", "httpx2")]
)
def test_an_httpx2_that_another_package_brought_is_used_from_2_13_on(installed: str, used: str) -> None:
    code = (
        "import importlib.metadata, sys, types, httpx; fork = types.ModuleType('httpx2'); "
        "fork.__dict__.update({k: v for k, v in vars(httpx).items() if not k.startswith('__')}); "
        f"sys.modules['httpx2'] = fork; importlib.metadata.version = lambda name: {installed!r}; "
        "from airflow_provider_segmind.client import http_library; print(http_library.httpx.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == used
