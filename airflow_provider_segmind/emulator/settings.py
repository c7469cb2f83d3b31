"""What the emulated service is like: one flat, JSON-able object, changeable while it runs."""

from __future__ import annotations

import dataclasses
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


@dataclass(kw_only=True)
class Settings:
    """Every knob of the emulated service. Times are emulator seconds, amounts USD, prices USD for a million tokens.

    Fields whose true value nobody documents are marked *assumed*; docs/emulator.md lists them.
    """

    api_keys: list[str] = field(default_factory=lambda: [DEFAULT_API_KEY])
    #: balance of each key at its first use; set None for "no credits record" (404 on the credits route)
    balance: float | None = 100.0
    free_credits: float = 0.0
    #: how long status and result stay readable, counted from submission
    ttl: float = 3600.0
    file_ttl: float = 7 * 86400.0
    queue_time: float = 0.0
    #: a number, a list (one for each request, repeated), or {"lognormal": {"median": s, "sigma": x, "seed": n}}
    latency: Any = 0.0
    #: None: requests move by the clock; [queued, processing]: by that many looks instead
    looks: list[int] | None = None
    price_input: float = 0.25
    price_output: float = 1.50
    media_price: float = 0.05
    output_mode: str = "double"
    metrics: str = "full"
    id_format: str = "hex"
    #: HTTP code that carries a FAILED body on the polls; 200 is the switch the SDK's own tests use
    failed_status: int = 422
    failed_request_id: bool = True
    #: HTTP code of a result that is read before completion (assumed)
    early_result_status: int = 200
    #: None: a bad body is accepted and FAILS later; 406 or 422: it is refused at submit
    eager_validation: int | None = None
    strict_gemini_messages: bool = False
    credits_status_v2: int = 402
    credits_status_v1: int = 406
    #: how long v1 blocks before the gateway answers 504; the request itself goes on (assumed)
    v1_timeout: float = 60.0
    rpm: int | None = None
    rpm_counts_gets: bool = False
    reset_format: str = "iso_z"
    #: whose time the reset header tells: the client's wall clock, or the emulator's own (scaled, advanced) clock
    reset_clock: str = "client"
    history_delay: float = 0.0
    history_envelope: str = "data"
    upload_mode: str = "file_urls"
    account_email: str = "emulator@example.com"
    #: origin written into status_url and response_url; None: the emulator's own address
    public_url: str | None = None
    #: origin written into file URLs; None: the emulator's own address
    files_url: str | None = None
    #: path prefix under which the gateway (v1, v2) sits, as behind a proxy
    prefix: str = ""
    #: what the file host does with an API key it is sent: note it in `leaks`, or also answer 400
    file_key: str = "log"
    #: slugs beyond the built-in ones: {slug: kind}; kinds are in catalogue.py
    models: dict[str, str] = field(default_factory=dict)
    retired: list[str] = field(default_factory=lambda: ["gemini-1.5-pro", "gpt-3.5-turbo"])
    restricted: list[str] = field(default_factory=lambda: ["restricted-model"])
    record_requests: bool = True
    record_bodies: bool = True
    record_headers: bool = True
    #: keep only that many recorded requests, the newest; None: all
    record_limit: int | None = None

    def __post_init__(self) -> None:
        self.change({})

    def change(self, values: dict[str, Any]) -> None:
        """Change some settings, all or none.

        :param values: new values by field name.
        :raises ValueError: for an unknown name or a word that is not among the choices of its field.
        """
        known = {item.name for item in dataclasses.fields(self)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown emulator settings {unknown}; known: {sorted(known)}")
        for name, choices in _CHOICES.items():
            value = values.get(name, getattr(self, name))
            if value not in choices:
                raise ValueError(f"emulator setting {name}={value!r} is not one of {list(choices)}")
        if "latency" in values:
            draw_latency(values["latency"], 0)
        for name, value in values.items():
            setattr(self, name, list(value) if isinstance(value, (tuple, set, frozenset)) else value)
        self.prefix = "/" + self.prefix.strip("/") if self.prefix.strip("/") else ""
