"""The methods with which a test controls the emulator, in its process and from another."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from airflow_provider_segmind.emulator import EmulatorControl, SegmindEmulator


def test_the_control_client_has_the_same_methods_and_entries_as_the_emulator(emulator, http):
    http.post("/v2/gpt-5", json={"prompt": "x"})
    control = EmulatorControl(emulator.url)

    assert control.bill == emulator.bill
    assert control.jobs == emulator.jobs
    assert control.requests == emulator.requests
    assert control.posts("gpt-5")[0].json == {"prompt": "x"}
    assert control.calls() == emulator.calls()
    assert control.connection_uri == emulator.connection_uri
    assert control.settings(ttl=20)["ttl"] == emulator.settings()["ttl"] == 20


def test_the_connection_points_every_service_at_the_emulator_in_json_and_as_a_uri(emulator):
    fields = json.loads(emulator.connection_json)
    parts = urlsplit(emulator.connection_uri)

    assert fields["conn_type"] == parts.scheme == "segmind"
    assert fields["host"] == unquote(parts.netloc.partition("@")[2]) == emulator.url
    assert fields["password"] == parts.password == emulator.api_key
    assert fields["extra"] == dict(parse_qsl(parts.query))
    assert set(fields["extra"].values()) == {emulator.url}


@pytest.mark.airflow
def test_airflow_reads_both_forms_of_the_connection_alike():
    from airflow.models.connection import Connection

    with SegmindEmulator(prefix="/proxy") as emulator:
        read = [Connection(uri=emulator.connection_uri), Connection.from_json(emulator.connection_json)]

    assert [connection.host for connection in read] == [emulator.gateway_url] * 2
    assert [connection.password for connection in read] == [emulator.api_key] * 2
    assert read[0].extra_dejson == read[1].extra_dejson
