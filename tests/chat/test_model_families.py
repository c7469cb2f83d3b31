"""Which API format a model uses, by its name."""

from __future__ import annotations

import pytest

from airflow_provider_segmind.chat.model_families import FAMILIES, ApiFormat, assumption, family_of, known_family
from airflow_provider_segmind.exceptions import SegmindConfigError


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ("gemini-2.5-flash", "gemini"),
        ("claude-opus-4.7", "anthropic"),
        ("gpt-4o", "openai"),
        ("o4-mini", "openai"),
        ("deepseek-chat", "openai"),
        ("kimi-k2-instruct-0905", "openai"),
        ("llama-v3p1-8b-instruct", "openai"),
        ("llama4-scout-instruct-basic", "openai"),
        ("qwen-3.8-max", "openai"),
        ("qwen3-vl-flash", "openai"),
        ("qvq-max", "openai"),
        ("minimax-m3", "openai"),
        ("Gemini-3-Pro", "gemini"),
    ],
)
def test_the_family_is_recognized_by_the_name(model, family):
    assert family_of(model) == family


@pytest.mark.parametrize(
    "model", ["gemini-embedding-001", "gemini-3.1-flash-tts", "gpt-image-2", "qwen-image", "seedance-2.5", "flux-2-pro"]
)
def test_a_model_that_is_not_a_chat_model_has_no_family(model):
    assert known_family(model) is None
    assert family_of(model, "openai") is ApiFormat.OPENAI
    with pytest.raises(SegmindConfigError, match="is not a chat model, judging by its name"):
        family_of(model)


def test_the_format_of_a_chat_model_of_an_unknown_family_is_assumed_with_a_warning():
    assert family_of("grok-9") is ApiFormat.OPENAI
    assert "'grok-9' matches no known family, so its request is written in the format 'openai'" in assumption("grok-9")
    assert assumption("grok-9", "openai") is None
    assert assumption("gemini-3-pro") is None


def test_every_family_has_a_format_and_a_beginning():
    beginnings = [prefix for prefixes in FAMILIES.values() for prefix in prefixes]

    assert set(FAMILIES) == set(ApiFormat)
    assert len(beginnings) == len(set(beginnings)) > 20
