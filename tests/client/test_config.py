"""The settings of a client."""

from __future__ import annotations

from airflow_provider_segmind.client.client import ClientConfig
from tests.support.clients import KEY


def test_a_config_shows_no_key() -> None:
    assert KEY not in repr(ClientConfig(api_key=KEY))
