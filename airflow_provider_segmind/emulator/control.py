"""The methods with which a test controls the emulator, in the same process or over HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlencode

from airflow_provider_segmind.emulator.recorder import BillEntry, CallEntry, Entry, JobEntry, RecordedRequest

__all__ = ["BillEntry", "CallEntry", "Controls", "EmulatorControl", "JobEntry", "RecordedRequest"]
_E = TypeVar("_E", bound=Entry)


class Controls:
    """Script replies and faults, move the clock, and read what happened; times are emulated seconds."""

    def _send(self, command: str, fields: dict[str, Any]) -> Any:
        raise NotImplementedError

    @property
    def url(self) -> str:
        """Address of all services: gateway (without its prefix: see :attr:`gateway_url`), storage, history, files."""
        raise NotImplementedError

    @property
    def gateway_url(self) -> str:
        """Address of the gateway, path prefix included."""
        return self.url + str(self.settings()["prefix"])

    @property
    def api_key(self) -> str:
        """A valid API key."""
        return str(self.settings()["api_keys"][0])

    @property
    def connection(self) -> dict[str, Any]:
        """The fields of an Airflow connection with all addresses at this emulator."""
        extra = {"storage_url": self.url, "history_url": self.url, "models_url": self.url}
        return {"conn_type": "segmind", "host": self.gateway_url, "password": self.api_key, "extra": extra}

    @property
    def connection_json(self) -> str:
        """The connection in JSON, for ``AIRFLOW_CONN_...``."""
        return json.dumps(self.connection)

    @property
    def connection_uri(self) -> str:
        """The connection as a URI, for ``AIRFLOW_CONN_...``."""
        fields = self.connection
        password, host = quote(fields["password"], safe=""), quote(fields["host"], safe="")
        return f"segmind://:{password}@{host}/?{urlencode(fields['extra'])}"

    def _rows(self, command: str, kind: type[_E], fields: dict[str, Any]) -> list[_E]:
        return [row if isinstance(row, kind) else kind.from_json(row) for row in self._send(command, fields)]

    def settings(self, **values: Any) -> dict[str, Any]:
        """Change settings and return all of them.

        :param values: fields of :class:`~airflow_provider_segmind.emulator.settings.Settings`.
        """
        return cast("dict[str, Any]", self._send("settings", values))

    def script(self, **fields: Any) -> str:
        """Script the reply of a model; the newest script that matches a call is used.

        :param fields: fields of :class:`~airflow_provider_segmind.emulator.scripts.Script`.
        :return: id for :meth:`unscript`.
        """
        return cast("str", self._send("script", fields))

    def unscript(self, script_id: str | None = None) -> None:
        """Remove one script, or all."""
        self._send("unscript", {"script_id": script_id})

    @property
    def scripts(self) -> list[dict[str, Any]]:
        """The current scripts, the newest first; ``used`` counts the uses of each."""
        return cast("list[dict[str, Any]]", self._send("scripts", {}))

    def fault(self, route: str, **fields: Any) -> str:
        """Add a fault to a route.

        :param route: submit, v1, status, result, credits, history, upload, models, files, ...; ``a|b`` or ``*``.
        :param fields: fields of :class:`~airflow_provider_segmind.emulator.faults.Fault`.
        :return: id for :meth:`unfault`.
        """
        return cast("str", self._send("fault", {"route": route, **fields}))

    def outage(self, seconds: float) -> str:
        """Reset every connection for some emulated seconds."""
        return self.fault("*", reset=True, seconds=seconds)

    def unfault(self, fault_id: str | None = None) -> None:
        """Remove one fault, or all."""
        self._send("unfault", {"fault_id": fault_id})

    @property
    def faults(self) -> list[dict[str, Any]]:
        """The current faults, the oldest first; ``used`` counts the uses of each."""
        return cast("list[dict[str, Any]]", self._send("faults", {}))

    def advance(self, seconds: float) -> float:
        """Move the emulated clock forward; requests that become due complete and are billed."""
        return cast("float", self._send("advance", {"seconds": seconds}))

    def scale(self, scale: float) -> None:
        """Set how many emulated seconds pass in one wall-clock second."""
        self._send("scale", {"scale": scale})

    def now(self) -> float:
        """Return the emulated time, epoch seconds."""
        return cast("float", self._send("now", {}))

    def set_balance(self, credits: float | None, *, free: float = 0.0, key: str | None = None) -> None:
        """Set the balance of a key in USD; None removes its credits record."""
        self._send("set_balance", {"credits": credits, "free": free, "key": key})

    def balance(self, key: str | None = None) -> float:
        """Return the balance of a key in USD, free credits included."""
        return cast("float", self._send("balance", {"key": key}))

    @property
    def bill(self) -> list[BillEntry]:
        """Every charge, in the order the requests completed."""
        return self._rows("bill", BillEntry, {})

    @property
    def jobs(self) -> list[JobEntry]:
        """Every accepted request, in the order of submission."""
        return self._rows("jobs", JobEntry, {})

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every recorded HTTP request, except those to control routes."""
        return self._rows("requests", RecordedRequest, {})

    def posts(self, model: str | None = None) -> list[RecordedRequest]:
        """Return the paid submissions received, including refused ones and those hit by a fault."""
        return self._rows("posts", RecordedRequest, {"model": model})

    def calls(self, route: str | None = None) -> list[CallEntry]:
        """Return time, route and status of every answered call, even if requests are not recorded."""
        return self._rows("calls", CallEntry, {"route": route})

    def counts(self) -> dict[str, dict[str, int]]:
        """Return answered calls by route and status."""
        return cast("dict[str, dict[str, int]]", self._send("counts", {}))

    def most_accepted(self, seconds: float = 60.0, route: str | None = None) -> int:
        """Return the largest number of accepted calls in any window of that many seconds."""
        return cast("int", self._send("most_accepted", {"seconds": seconds, "route": route}))

    @property
    def leaks(self) -> list[str]:
        """Paths on the public file host that were requested with an API key."""
        return cast("list[str]", self._send("leaks", {}))

    def reset(self, what: str | None = None) -> None:
        """Clear ``requests``, ``scripts``, ``faults``, ``records``, ``rate``, or all five; settings and time stay."""
        self._send("reset", {"what": what})


class EmulatorControl(Controls):
    """Control an emulator that runs in another process.

    :param url: the address it printed.
    :param timeout: wall-clock seconds for one command.
    """

    def __init__(self, url: str, *, timeout: float = 30.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"emulator url {url!r} is not http(s)")
        self._url = url.rstrip("/")
        self.timeout = timeout
        # no proxy from the environment: the emulator is on this machine
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @property
    def url(self) -> str:
        """Address of all services."""
        return self._url

    def _send(self, command: str, fields: dict[str, Any]) -> Any:
        data = json.dumps(fields).encode()
        headers = {"content-type": "application/json"}
        request = urllib.request.Request(f"{self.url}/_emulator/{command}", data=data, headers=headers)  # noqa: S310 - checked above
        try:
            with self._opener.open(request, timeout=self.timeout) as answer:
                return json.loads(answer.read())["value"]
        except urllib.error.HTTPError as problem:
            with problem:
                raise ValueError(json.loads(problem.read())["error"]) from problem
