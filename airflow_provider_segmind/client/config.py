"""The settings of a client: whose account it uses, and its limits."""

from __future__ import annotations

from dataclasses import dataclass, field

from airflow_provider_segmind.client.endpoints import Endpoints, Wire
from airflow_provider_segmind.client.rate_limiter import RateSettings
from airflow_provider_segmind.client.response_body import MAX_RESPONSE_BYTES
from airflow_provider_segmind.masking import remember

MAX_DOWNLOAD_BYTES = 1 << 30
"""Largest downloaded file in bytes; a video of a few minutes has tens of megabytes."""
DOWNLOAD_SECONDS = 900.0
"""Seconds for one downloaded file, retries included."""


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """
    Limits for each downloaded file of a result.

    :param max_bytes: size of the file.
    :param seconds: counted from the first attempt.
    """

    max_bytes: int = MAX_DOWNLOAD_BYTES
    seconds: float = DOWNLOAD_SECONDS


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """
    The account and limits of a client.

    :param request_timeout: seconds for one call, body included.
    :param requests_per_minute: the account's limit, None when unknown.
    :param rate_share: this process's share of the limit, where several processes use the account.
    :param redis_url: Redis through which processes share the rate limit; may contain a password.
    :param model: the model of tasks that name none.
    :param max_response_bytes: largest response, compressed and decompressed.
    :param downloads: limits for each downloaded file of a result.
    """

    api_key: str = field(repr=False)
    endpoints: Endpoints = field(default_factory=Endpoints)
    request_timeout: float = 60.0
    requests_per_minute: float | None = None
    rate_share: float = 1.0
    redis_url: str | None = field(default=None, repr=False)
    model: str | None = None
    max_response_bytes: int = MAX_RESPONSE_BYTES
    downloads: DownloadLimits = field(default_factory=DownloadLimits)

    def __post_init__(self) -> None:
        remember(self.api_key)

    @property
    def wire(self) -> Wire:
        """Return what builds this account's calls."""
        return Wire(self.endpoints, self.api_key)

    @property
    def rate(self) -> RateSettings:
        """Return the rate limit settings."""
        return RateSettings(
            requests_per_minute=self.requests_per_minute,
            rate_share=self.rate_share,
            redis_url=self.redis_url,
        )
