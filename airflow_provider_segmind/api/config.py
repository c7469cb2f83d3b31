"""What a client needs to know of an account."""

from __future__ import annotations

from dataclasses import dataclass, field

from airflow_provider_segmind.api.protocol import Endpoints, Wire
from airflow_provider_segmind.api.retry import Patience


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """
    What a client needs to know of an account.

    :param request_timeout: seconds for one call, its body included.
    :param requests_per_minute: the account's limit, None when unknown.
    :param model: the model to use where none is named.
    :param patience: how long the client itself goes on over trouble.
    """

    api_key: str = field(repr=False)
    endpoints: Endpoints = field(default_factory=Endpoints)
    request_timeout: float = 60.0
    requests_per_minute: float | None = None
    model: str | None = None
    resubmit_on_server_error: bool = False
    patience: Patience = field(default_factory=Patience)

    @property
    def wire(self) -> Wire:
        """Return the builder of this account's calls."""
        return Wire(self.endpoints, self.api_key, self.resubmit_on_server_error)
