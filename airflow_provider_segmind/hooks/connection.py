"""Reads the client's configuration from an Airflow Connection."""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

from airflow_provider_segmind.client.config import DOWNLOAD_SECONDS, MAX_DOWNLOAD_BYTES, ClientConfig, DownloadLimits
from airflow_provider_segmind.client.endpoints import LONGEST_TIMEOUT, Endpoints, base_url, check_api_key
from airflow_provider_segmind.client.response_body import MAX_RESPONSE_BYTES
from airflow_provider_segmind.compat import Connection, conf
from airflow_provider_segmind.exceptions import SegmindConfigError, did_you_mean, shorten, type_name
from airflow_provider_segmind.get_provider_info import CONNECTION_FIELDS, get_provider_info
from airflow_provider_segmind.masking import remember

API_KEY_VARIABLE = "SEGMIND_API_KEY"
EXTRA_FIELDS = (*CONNECTION_FIELDS, "redis_url", "prices", "max_result_bytes")
"""All fields of the extra."""
SMALLEST_LIMIT = 16_000
"""Least number of bytes: a response to a submission must fit, or every request would be paid for and lost."""
MOST_IN_FLIGHT = 1_000_000
"""The highest ``max_paid_in_flight``."""
_log = logging.getLogger(__name__)


def client_config(connection: Connection, extra: Mapping[str, Any], *, rate_share: float = 1.0) -> ClientConfig:
    """
    Read a Connection.

    :param extra: the connection's extra, decoded; passed in because an event loop must read it asynchronously.
    :param rate_share: the task's share of the rate limit, above 0 and at most 1.
    :raises SegmindConfigError: a field is invalid; the message names it.
    """
    api_key = (connection.password or os.environ.get(API_KEY_VARIABLE) or "").strip()
    if not api_key:
        raise SegmindConfigError(
            f"Connection {connection.conn_id!r} has no API key: fill in its password or set {API_KEY_VARIABLE}. "
            "Nothing was sent."
        )
    # An error about another field would show the key if it was put there by mistake.
    remember(api_key)
    check_api_key(api_key, f"connection {connection.conn_id!r}")
    fields = _Extra(connection.conn_id, extra)
    fields.warn_of_unknown_fields()
    # Read later by output_folder(); checked here, so that an error in it is not raised after a request was paid.
    fields.text("output_path")
    _warn_of_unknown_options()
    defaults = Endpoints()
    most = fields.byte_limit("max_result_bytes") or MAX_DOWNLOAD_BYTES
    # A value above the default raises the limit of responses and the time for a file in proportion.
    larger = max(1.0, most / MAX_DOWNLOAD_BYTES)
    return ClientConfig(
        api_key=api_key,
        endpoints=Endpoints(
            gateway=base_url(_host(connection), "host") if connection.host else defaults.gateway,
            storage=fields.url("storage_url") or defaults.storage,
            history=fields.url("history_url") or defaults.history,
            models=fields.url("models_url") or defaults.models,
        ),
        request_timeout=fields.seconds("request_timeout") or 60.0,
        requests_per_minute=fields.positive("requests_per_minute"),
        rate_share=rate_share,
        redis_url=fields.text("redis_url"),
        model=fields.text("model"),
        max_response_bytes=int(MAX_RESPONSE_BYTES * larger),
        downloads=DownloadLimits(max_bytes=most, seconds=min(LONGEST_TIMEOUT, DOWNLOAD_SECONDS * larger)),
    )


def output_folder(connection: Connection) -> tuple[str | None, str]:
    """
    Return the folder for results too large for XCom, of tasks without an ``output_path``, and what names it.

    :raises SegmindConfigError: the connection's field is not a string.
    """
    folder = _Extra(connection.conn_id, connection.extra_dejson or {}).text("output_path")
    if folder is not None:
        return folder, f"output_path of connection {connection.conn_id!r}"
    return conf.get("segmind", "output_path", fallback="") or None, "[segmind] output_path"


def max_paid_in_flight(conn_id: str, extra: Mapping[str, Any]) -> int | None:
    """
    Return how many paid requests may be in flight over all tasks, None without a limit.

    :raises SegmindConfigError: the field cannot be read; nothing was sent.
    """
    wanted = f"a whole number, from 1 to {MOST_IN_FLIGHT:,}"
    most = _Extra(conn_id, extra).number(
        "max_paid_in_flight", wanted, lambda number: 1 <= number <= MOST_IN_FLIGHT and number.is_integer()
    )
    return None if most is None else int(most)


def check_extra(connection: Connection) -> None:
    """
    Check that the extra of a Connection is an object; Airflow reads anything else, or broken JSON, as an empty one.

    :raises SegmindConfigError: it is not; names the connection, never its content.
    """
    text = connection.extra
    if not isinstance(text, str) or not text.strip():
        return
    try:
        decoded = json.loads(text)
    except (ValueError, RecursionError):
        problem = "is not JSON"
    else:
        if decoded is None or isinstance(decoded, dict):
            return
        problem = f"is JSON, but {type_name(decoded)}"
        if isinstance(decoded, str) and decoded.lstrip().startswith("{"):
            problem += ", perhaps an object that was encoded twice"
    raise SegmindConfigError(
        f"The extra of connection {connection.conn_id!r} {problem}; it must be a JSON object, like "
        '{"requests_per_minute": 60}. Nothing was sent.'
    )


@functools.lru_cache(maxsize=256)
def _warn_of_unknown_field(connection_id: str, name: str) -> None:
    """Warn once per process; a triggerer reads its Connections every minute."""
    meant = did_you_mean(name, EXTRA_FIELDS)
    _log.warning("Connection %r has an unknown extra field, %r%s", connection_id, shorten(name, 40), meant)


@functools.cache
def _warn_of_unknown_options() -> None:
    """Warn once per process about options of ``[segmind]`` that nothing reads; Airflow ignores them."""
    known = get_provider_info()["config"]["segmind"]["options"]
    for name in conf.getsection("segmind") or ():
        if re.sub("_(cmd|secret)$", "", name) not in known:
            _log.warning("[segmind] has an unknown option, %r%s", shorten(name, 40), did_you_mean(name, known))


class _Extra:
    """The extra of a Connection; errors name the connection and the field, and show at most 40 characters."""

    def __init__(self, connection_id: str, values: Mapping[str, Any]) -> None:
        self._id = connection_id
        self._values = values

    def warn_of_unknown_fields(self) -> None:
        for name in self._values:
            # Airflow before 2.3 stored the fields of its form under such names.
            if name not in EXTRA_FIELDS and not str(name).startswith("extra__"):
                _warn_of_unknown_field(self._id, str(name))

    def text(self, name: str) -> str | None:
        value = self._values.get(name)
        if value is None:
            return None
        if not isinstance(value, str):
            raise self._wrong(name, value, "a string")
        return value.strip() or None

    def url(self, name: str) -> str | None:
        text = self.text(name)
        return None if text is None else base_url(text, name)

    def positive(self, name: str) -> float | None:
        return self.number(name, "a number above 0", lambda number: number > 0)

    def seconds(self, name: str) -> float | None:
        wanted = f"a number of seconds, above 0 and at most {LONGEST_TIMEOUT:,}"
        return self.number(name, wanted, lambda number: 0 < number <= LONGEST_TIMEOUT)

    def byte_limit(self, name: str) -> int | None:
        wanted = f"a number of bytes, at least {SMALLEST_LIMIT}"
        value = self.number(name, wanted, lambda number: number >= SMALLEST_LIMIT)
        return None if value is None else int(value)

    def number(self, name: str, wanted: str, is_allowed: Callable[[float], bool]) -> float | None:
        value = self._values.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if isinstance(value, bool) or not math.isfinite(number) or not is_allowed(number):
            raise self._wrong(name, value, wanted)
        return number

    def _wrong(self, name: str, value: Any, wanted: str) -> SegmindConfigError:
        shown = shorten(repr(value), 40) if isinstance(value, str | int | float) else type_name(value)
        return SegmindConfigError(
            f"Extra field {name!r} of connection {self._id!r} is {shown}; it must be {wanted}. Nothing was sent."
        )


def _host(connection: Connection) -> str:
    """Assemble a base URL from the fields into which the URI form of a connection splits it."""
    host = str(connection.host).strip()
    if "://" not in host:
        if host.count(":") > 1 and "[" not in host:
            # Airflow takes the brackets off an IPv6 address.
            host = f"[{host}]"
        scheme = connection.schema if (connection.schema or "").lower() in ("http", "https") else "https"
        host = f"{scheme}://{host}"
    scheme, _, rest = host.partition("://")
    authority, slash, path = rest.partition("/")
    if connection.port and not authority.rpartition("]")[2].rpartition(":")[1]:
        authority = f"{authority}:{connection.port}"
    if connection.schema and connection.schema.lower() not in ("http", "https") and not path.strip("/"):
        # A URI has its path in the field "schema", which may be the path prefix of a proxy.
        slash, path = "/", connection.schema.strip("/")
    return f"{scheme}://{authority}{slash}{path}"
