"""The settings of the emulated service; they can change while it runs."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_segmind.emulator.scripts import OUTPUT_MODES, draw_latency

DEFAULT_API_KEY = "SG_0000000000000000"
_CHOICES = {
    "output_mode": OUTPUT_MODES,
    "metrics": ("full", "old"),
    "id_format": ("hex", "uuid"),
    "history_envelope": ("list", "data", "requests"),
    "upload_mode": ("file_urls", "urls"),
    "reset_format": ("iso_z", "iso", "space", "epoch", "absent", "retry_after"),
    "reset_clock": ("client", "emulator"),
    "file_key": ("log", "reject"),
}


_AMOUNTS = ("balance", "free_credits", "ttl", "file_ttl", "queue_time", "v1_timeout", "rpm", "history_delay")
"""Settings that are numbers of at least 0, or None."""


@dataclass(kw_only=True)
class Settings:
    """All settings. Times are emulated seconds, amounts USD, prices USD per million tokens.

    Values that are not documented by Segmind are marked *assumed*; docs/how-to/emulator.md lists them.
    """

    api_keys: list[str] = field(default_factory=lambda: [DEFAULT_API_KEY])
    #: balance of each key at its first use; set None for "no credits record" (404 on the credits route)
    balance: float | None = 100.0
    free_credits: float = 0.0
    #: how long status and result stay readable, from submission
    ttl: float = 3600.0
    file_ttl: float = 7 * 86400.0
    queue_time: float = 0.0
    #: a number, a list (one for each request, repeated), or {"lognormal": {"median": s, "sigma": x, "seed": n}}
    latency: Any = 0.0
    #: None: requests advance with the clock; [queued, processing]: after that many polls instead
    polls: list[int] | None = None
    price_input: float = 0.25
    price_output: float = 1.50
    media_price: float = 0.05
    #: whether names, options and schemas of a body are billed as input, and not only its text
    bill_whole_body: bool = False
    output_mode: str = "double"
    metrics: str = "full"
    id_format: str = "hex"
    #: HTTP status of a poll of a FAILED request; the tests of the official SDK use 200
    failed_status: int = 422
    failed_request_id: bool = True
    #: HTTP status of a result that is read before completion (assumed)
    early_result_status: int = 200
    #: None: an invalid body is accepted and the request fails; 406 or 422: the submit is refused
    eager_validation: int | None = None
    strict_gemini_messages: bool = False
    credits_status_v2: int = 402
    credits_status_v1: int = 406
    #: how long v1 blocks before the gateway responds with 504; the request itself continues (assumed)
    v1_timeout: float = 60.0
    rpm: int | None = None
    rpm_counts_gets: bool = False
    reset_format: str = "iso_z"
    #: the clock of the reset header: the client's wall clock, or the emulator's own (scaled, advanced) clock
    reset_clock: str = "client"
    history_delay: float = 0.0
    history_envelope: str = "data"
    upload_mode: str = "file_urls"
    account_email: str = "emulator@example.com"
    #: origin written into status_url and response_url; None: the emulator's own address
    public_url: str | None = None
    #: origin written into file URLs; None: the emulator's own address
    files_url: str | None = None
    #: path prefix of the gateway (v1, v2), as behind a proxy
    prefix: str = ""
    #: what the file host does when it is sent an API key: record it in `leaks`, or also respond with 400
    file_key: str = "log"
    #: slugs beyond the built-in ones: {slug: kind}; kinds are in catalogue.py
    models: dict[str, str] = field(default_factory=dict)
    retired: list[str] = field(default_factory=lambda: ["gemini-1.5-pro", "gpt-3.5-turbo"])
    restricted: list[str] = field(default_factory=lambda: ["restricted-model"])
    record_requests: bool = True
    record_bodies: bool = True
    record_headers: bool = True
    #: how many recorded requests are kept, the newest ones; None: all
    record_limit: int | None = None

    def __post_init__(self) -> None:
        self.change({})

    def change(self, values: dict[str, Any]) -> None:
        """Change some settings, all or none.

        :raises ValueError: a name is unknown, or a value is not one of the choices of its field, or not a number.
        """
        known = {item.name for item in dataclasses.fields(self)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown emulator settings {unknown}; known: {sorted(known)}")
        for name, choices in _CHOICES.items():
            value = values.get(name, getattr(self, name))
            if value not in choices:
                raise ValueError(f"emulator setting {name}={value!r} is not one of {list(choices)}")
        for name in _AMOUNTS:
            value = values.get(name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (number and 0 <= value < math.inf):
                raise ValueError(f"emulator setting {name}={value!r} is not a number of at least 0")
        if "latency" in values:
            draw_latency(values["latency"], 0)
        for name, value in values.items():
            setattr(self, name, list(value) if isinstance(value, (tuple, set, frozenset)) else value)
        self.prefix = "/" + self.prefix.strip("/") if self.prefix.strip("/") else ""
