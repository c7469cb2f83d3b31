"""Reads an Airflow Connection: which account, where, and how fast."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from airflow_provider_segmind.api.config import ClientConfig
from airflow_provider_segmind.api.protocol import Endpoints, base_url
from airflow_provider_segmind.compat import Connection
from airflow_provider_segmind.exceptions import SegmindConfigError

API_KEY_VARIABLE = "SEGMIND_API_KEY"


def client_config(connection: Connection, extra: Mapping[str, Any], *, rate_share: float | None = None) -> ClientConfig:
    """
    Read a Connection.

    :param extra: the connection's extra, decoded; passed in because an event loop must read it asynchronously.
    :param rate_share: a task's own part of the account's limit, before the connection's.
    :raises SegmindConfigError: a field cannot work; the message names it.
    """
    api_key = (connection.password or os.environ.get(API_KEY_VARIABLE) or "").strip()
    if not api_key:
        raise SegmindConfigError(
            f"Connection {connection.conn_id!r} has no API key: fill in its password or set {API_KEY_VARIABLE}. "
            "Nothing was sent."
        )
    if not api_key.isascii() or not api_key.isprintable():
        raise SegmindConfigError(
            f"The API key (password) of connection {connection.conn_id!r} holds characters that no HTTP header can "
            "carry."
        )
    defaults = Endpoints()
    return ClientConfig(
        api_key=api_key,
        endpoints=Endpoints(
            gateway=base_url(_host(connection), "host") if connection.host else defaults.gateway,
            storage=base_url(extra.get("storage_url") or defaults.storage, "storage_url"),
            history=base_url(extra.get("history_url") or defaults.history, "history_url"),
            models=base_url(extra.get("models_url") or defaults.models, "models_url"),
        ),
        request_timeout=_positive(extra, "request_timeout") or 60.0,
        requests_per_minute=_positive(extra, "requests_per_minute"),
        rate_share=rate_share or _positive(extra, "rate_share") or 1.0,
        count_polls=_flag(extra, "count_polls") if extra.get("count_polls") not in (None, "") else None,
        redis_url=str(extra["redis_url"]) if extra.get("redis_url") else None,
        typical_seconds=_seconds(extra, "typical_seconds"),
        model=str(extra["model"]).strip() if extra.get("model") else None,
        resubmit_on_server_error=_flag(extra, "resubmit_on_server_error"),
    )


def _host(connection: Connection) -> str:
    """Put a base URL together from the parts that the URI form of a connection scatters it into."""
    host = str(connection.host).strip()
    if "://" not in host:
        scheme = connection.schema if connection.schema in ("http", "https") else "https"
        host = f"{scheme}://{host}"
    scheme, _, rest = host.partition("://")
    authority, slash, path = rest.partition("/")
    if connection.port and not authority.rpartition("]")[2].rpartition(":")[1]:
        authority = f"{authority}:{connection.port}"
    if connection.schema and connection.schema not in ("http", "https") and not path.strip("/"):
        # A URI has its path in the field "schema"; a proxy's prefix stands there.
        slash, path = "/", connection.schema.strip("/")
    return f"{scheme}://{authority}{slash}{path}"


def _positive(extra: Mapping[str, Any], name: str) -> float | None:
    value = extra.get(name)
    if value is None or value == "":
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number) or number <= 0:
        raise SegmindConfigError(f"Field {name!r} of the Segmind connection is {value!r}; it must be a number above 0.")
    return number


def _flag(extra: Mapping[str, Any], name: str) -> bool:
    value = extra.get(name, False)
    if isinstance(value, str) and value.strip().lower() in ("", "true", "false"):
        return value.strip().lower() == "true"
    if isinstance(value, bool) or value is None:
        return bool(value)
    raise SegmindConfigError(f"Field {name!r} of the Segmind connection is {value!r}; it must be true or false.")


def _seconds(extra: Mapping[str, Any], name: str) -> tuple[tuple[str, float], ...]:
    given = extra.get(name) or {}
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            given = None
    if not isinstance(given, Mapping):
        raise SegmindConfigError(f"Field {name!r} of the Segmind connection must be an object of models and seconds.")
    return tuple((str(model), seconds) for model in given if (seconds := _positive(given, model)) is not None)
