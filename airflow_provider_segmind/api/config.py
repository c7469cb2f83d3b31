"""What a client needs to know of an account."""

from __future__ import annotations

from dataclasses import dataclass, field

from airflow_provider_segmind.api.bodies import MAX_RESPONSE_BYTES
from airflow_provider_segmind.api.protocol import Endpoints, Wire
from airflow_provider_segmind.api.rates import RateSettings
from airflow_provider_segmind.api.retry import Patience
from airflow_provider_segmind.masking import remember

MAX_DOWNLOAD_BYTES = 1 << 30
"""Bytes of a file of a result; a video of some minutes has tens of megabytes."""
DOWNLOAD_SECONDS = 900.0
"""Seconds for a file of a result, repetitions included."""


@dataclass(frozen=True, slots=True)
class DownloadLimits:
    """
    Bounds of each file of a result.

    :param max_bytes: as it is written.
    :param seconds: from the first attempt on.
    """

    max_bytes: int = MAX_DOWNLOAD_BYTES
    seconds: float = DOWNLOAD_SECONDS


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """
    What a client needs to know of an account.

    :param request_timeout: seconds for one call, its body included.
    :param requests_per_minute: the account's limit, None when unknown.
    :param rate_share: this process's part of the limit, where several processes use the account.
    :param count_polls: whether GETs count towards the limit, None to find out.
    :param redis_url: where processes share the limit's window; may hold a password.
    :param typical_seconds: what models usually take, until their own completions are known.
    :param model: the model to use where none is named.
    :param patience: how long the client itself goes on over trouble.
    :param max_response_bytes: bytes up to which a response is read, as sent and unpacked.
    :param downloads: bounds of each file of a result.
    """

    api_key: str = field(repr=False)
    endpoints: Endpoints = field(default_factory=Endpoints)
    request_timeout: float = 60.0
    requests_per_minute: float | None = None
    rate_share: float = 1.0
    count_polls: bool | None = None
    redis_url: str | None = field(default=None, repr=False)
    typical_seconds: tuple[tuple[str, float], ...] = ()
    model: str | None = None
    resubmit_on_server_error: bool = False
    patience: Patience = field(default_factory=Patience)
    max_response_bytes: int = MAX_RESPONSE_BYTES
    downloads: DownloadLimits = field(default_factory=DownloadLimits)

    def __post_init__(self) -> None:
        remember(self.api_key)

    @property
    def wire(self) -> Wire:
        """Return the builder of this account's calls."""
        return Wire(self.endpoints, self.api_key, self.resubmit_on_server_error)

    @property
    def rate(self) -> RateSettings:
        """Return what this process may send in a minute."""
        return RateSettings(
            requests_per_minute=self.requests_per_minute,
            rate_share=self.rate_share,
            count_polls=self.count_polls,
            redis_url=self.redis_url,
        )
