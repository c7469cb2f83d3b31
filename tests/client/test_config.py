"""The settings of a client reveal neither key nor password, and reach the calls and the rate limiter."""

from __future__ import annotations

from airflow_provider_segmind.client.config import ClientConfig
from airflow_provider_segmind.client.endpoints import Endpoints
from airflow_provider_segmind.client.rate_limiter import RateSettings
from airflow_provider_segmind.masking import mask_known

KEY = "SG_of_the_test_of_settings_77"


def test_a_config_shows_no_key() -> None:
    assert KEY not in repr(ClientConfig(api_key=KEY))


def test_a_config_shows_no_password_of_redis() -> None:
    assert "hunter2" not in repr(ClientConfig(api_key=KEY, redis_url="redis://:hunter2@127.0.0.1/0"))


def test_the_key_of_a_config_is_masked_in_every_error_from_then_on() -> None:
    key = "9f3c77d1-no-prefix-0123456789"
    assert mask_known(f"refused: {key}") == f"refused: {key}"

    ClientConfig(api_key=key)

    assert key not in mask_known(f"refused: {key}")


def test_calls_go_to_the_endpoints_of_the_config_with_its_key() -> None:
    call = ClientConfig(api_key=KEY, endpoints=Endpoints(gateway="http://127.0.0.1:9/proxy")).wire.status("r-1")

    assert call.url == "http://127.0.0.1:9/proxy/v2/requests/r-1/status"
    assert call.headers["x-api-key"] == KEY


def test_the_rate_limiter_has_the_limit_the_share_and_the_store_of_the_config() -> None:
    config = ClientConfig(api_key=KEY, requests_per_minute=50, rate_share=0.25, redis_url="redis://127.0.0.1/3")

    assert config.rate == RateSettings(requests_per_minute=50, rate_share=0.25, redis_url="redis://127.0.0.1/3")
