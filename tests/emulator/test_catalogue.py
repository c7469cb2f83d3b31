"""Which models exist."""

from __future__ import annotations

import pytest

from airflow_provider_segmind.emulator.catalogue import BUILT_IN
from tests.support.emulator_calls import json_output


@pytest.mark.parametrize(
    ("slug", "status"), [("no-such-model", 404), ("gemini-1.5-pro", 410), ("restricted-model", 403)]
)
def test_unknown_retired_and_restricted_slugs_fail_fast_in_json(http, emulator, slug, status):
    """E10, E11, E12"""
    answer = http.post(f"/v2/{slug}", json={"prompt": "x"})

    assert answer.status_code == status
    assert slug in answer.json()["error"]
    assert emulator.jobs == []


def test_a_user_can_add_slugs_with_or_without_naming_their_kind(http, emulator, submit):
    """E10"""
    emulator.settings(models={"claude-9": "", "my-painter": "image"})

    assert json_output(http, submit("claude-9", prompt="x"))["content"][0]["text"] == "echo: x"
    assert http.get(f"/v2/requests/{submit('my-painter', prompt='x')}").json()["images"]


def test_the_catalogue_has_whole_slugs():
    assert {"gemini-2.5-flash-lite", "kling-3-pro-text2video", "llama4-maverick-instruct-basic"} <= set(BUILT_IN)
    assert not [slug for slug in BUILT_IN if slug.endswith("-")]
    assert {"lite", "basic", "compress", "text2video", "banana-2-lite"}.isdisjoint(BUILT_IN)


def test_the_model_list_has_its_odd_key_and_spelling(http):
    """E55"""
    body = http.get("/inference-model-information/list").json()

    assert list(body) == ["Inference Segmind Model Information List With Details"]
    rows = {row["slug"]: row for [*rows] in body.values() for row in rows}
    assert rows["gemini-3.1-flash-lite"]["is_depreciated"] is False
    assert rows["gemini-1.5-pro"]["is_depreciated"] is True
