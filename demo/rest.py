"""The part of Airflow's REST API (version 2, Airflow 3) that a demonstration and its tests need."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from types import TracebackType

Json = dict[str, Any]

FINISHED_RUNS = frozenset({"success", "failed"})
FINISHED_TASKS = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})

CALL_TIMEOUT = 120.0
"""Seconds for one call; on a busy machine the first one takes half a minute, in which modules are imported."""
LOCKED_PAUSES = (1.0, 2.0, 4.0)
"""Seconds before a call is made again whose transaction found the database locked."""


class AirflowRestError(RuntimeError):
    """Airflow's REST API refused a call, or a wait timed out."""


@dataclass(frozen=True, slots=True)
class Health:
    """The health of a component; ``heartbeat`` is in seconds since the epoch."""

    status: str | None
    heartbeat: float | None

    @classmethod
    def read(cls, name: str, component: Json) -> Health:
        """Read one entry of the response of ``/monitor/health``."""
        heartbeat = component.get(f"latest_{name}_heartbeat")
        seconds = datetime.fromisoformat(heartbeat).timestamp() if heartbeat else None
        return cls(status=component.get("status"), heartbeat=seconds)


class AirflowRest:
    """
    A client of an API server whose simple auth manager makes every user an admin.

    :param base_url: its address, such as ``http://127.0.0.1:8080``.
    :param poll_interval: seconds between two polls while waiting.
    """

    def __init__(self, *, base_url: str, poll_interval: float = 0.5) -> None:
        self.base_url = base_url
        self.poll_interval = poll_interval
        self._client = httpx.Client(base_url=base_url, timeout=CALL_TIMEOUT, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def call(self, method: str, path: str, *, json: Any = None, params: Json | None = None) -> Any:
        """
        Make one call and return its JSON.

        :param path: below ``/api/v2``.
        """
        if "Authorization" not in self._client.headers:
            token = self._client.get("/auth/token").raise_for_status().json()["access_token"]
            self._client.headers["Authorization"] = f"Bearer {token}"
        answer = self._client.request(method, f"/api/v2{path}", json=json, params=params)
        for pause in LOCKED_PAUSES:
            # SQLite under load: the transaction was rolled back, so the call had no effect.
            if answer.status_code != 500 or "Database error" not in answer.text:
                break
            time.sleep(pause)
            answer = self._client.request(method, f"/api/v2{path}", json=json, params=params)
        if answer.is_error:
            raise AirflowRestError(f"{method} {path} returned {answer.status_code}: {answer.text[:500]}")
        return answer.json() if answer.content else None

    def wait_for(self, what: str, check: Callable[[], Any], *, timeout: float) -> Any:
        """
        Call ``check`` until it returns something true, and return that. Errors of the API server are tolerated.

        :param what: what is waited for, for the error message.
        :param check: called once per poll.
        :param timeout: seconds.
        """
        deadline = time.monotonic() + timeout
        last: Any = None
        while True:
            try:
                last = check()
            except (httpx.TransportError, AirflowRestError) as error:
                last = None
                problem = f" ({error})"
            else:
                if last:
                    return last
                problem = ""
            if time.monotonic() >= deadline:
                raise AirflowRestError(f"Timed out after {timeout:.0f} s waiting for {what}{problem}.")
            time.sleep(self.poll_interval)

    def health(self) -> dict[str, Health]:
        """Health by component: ``metadatabase``, ``scheduler``, ``triggerer``, ``dag_processor``."""
        answer = self._client.get("/api/v2/monitor/health").raise_for_status().json()
        return {name: Health.read(name, component or {}) for name, component in answer.items()}

    def import_errors(self) -> dict[str, str]:
        """Stack trace by DAG file."""
        return {each["filename"]: each["stack_trace"] for each in self.call("GET", "/importErrors")["import_errors"]}

    def wait_for_dag(self, dag_id: str, *, timeout: float = 60) -> Json:
        """Wait until a DAG is parsed; unpause it."""

        def check() -> Json | None:
            known = self.call("GET", "/dags", params={"limit": 1000})["dags"]
            return next((dag for dag in known if dag["dag_id"] == dag_id), None)

        try:
            dag: Json = self.wait_for(f"DAG {dag_id!r}", check, timeout=timeout)
        except AirflowRestError as error:
            raise AirflowRestError(f"{error} Import errors: {self.import_errors()}") from error
        if dag["is_paused"]:
            dag = self.call("PATCH", f"/dags/{dag_id}", json={"is_paused": False})
        return dag

    def trigger(self, dag_id: str, *, conf: Json | None = None, run_id: str | None = None) -> str:
        """Start a run and return its id; several can start at the same instant."""
        body: Json = {"logical_date": None, "conf": conf or {}}
        if run_id is not None:
            body["dag_run_id"] = run_id
        return str(self.call("POST", f"/dags/{dag_id}/dagRuns", json=body)["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """The state of a run."""
        return str(self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def wait_for_run(
        self, dag_id: str, run_id: str, *, timeout: float, on_poll: Callable[[list[Json]], None] | None = None
    ) -> str:
        """
        Wait until a run has ended and return its state.

        :param on_poll: called with the task instances at each poll, for a progress display.
        """

        def check() -> str | None:
            state = self.run_state(dag_id, run_id)
            if on_poll is not None:
                on_poll(self.task_instances(dag_id, run_id))
            return state if state in FINISHED_RUNS else None

        return str(self.wait_for(f"the end of run {run_id!r} of {dag_id!r}", check, timeout=timeout))

    def task_instances(self, dag_id: str, run_id: str) -> list[Json]:
        """Every task instance of a run."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        return list(self.call("GET", path, params={"limit": 1000})["task_instances"])

    def task_instance(self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1) -> Json:
        """One task instance; its ``trigger`` is the trigger it waits for, or ``None``."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        return dict(self.call("GET", path if map_index < 0 else f"{path}/{map_index}"))

    def task_state(self, dag_id: str, run_id: str, task_id: str, key: str) -> Any:
        """The value of a key in the state store of a task, ``None`` if there is none (Airflow 3.3)."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/state-store"
        entries = self.call("GET", path)["task_state_store"]
        return next((each["value"] for each in entries if each["key"] == key), None)

    def wait_for_task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        *,
        states: Collection[str] = FINISHED_TASKS,
        timeout: float,
        map_index: int = -1,
    ) -> Json:
        """Wait until a task instance is in one of some states and return it."""

        def check() -> Json | None:
            instance = self.task_instance(dag_id, run_id, task_id, map_index=map_index)
            return instance if instance["state"] in states else None

        what = f"task {task_id!r} of run {run_id!r} to be {' or '.join(sorted(states))}"
        return dict(self.wait_for(what, check, timeout=timeout))

    def xcom(self, dag_id: str, run_id: str, task_id: str, *, key: str = "return_value", map_index: int = -1) -> Any:
        """The value of one XCom, as Python objects."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        params = {"map_index": map_index, "deserialize": False, "stringify": False}
        return self.call("GET", path, params=params)["value"]

    def event_logs(self, *, dag_id: str | None = None, run_id: str | None = None) -> list[Json]:
        """The audit log, oldest first; ``extra`` contains Airflow's message."""
        params: Json = {"limit": 1000, "order_by": "event_log_id"}
        params |= {name: value for name, value in (("dag_id", dag_id), ("run_id", run_id)) if value is not None}
        found: list[Json] = []
        while True:
            page = self.call("GET", "/eventLogs", params={**params, "offset": len(found)})
            found += page["event_logs"]
            if not page["event_logs"] or len(found) >= page["total_entries"]:
                return found

    def clear(self, dag_id: str, run_id: str, task_ids: Sequence[str], *, downstream: bool = True) -> list[Json]:
        """Clear task instances of a run, whatever their state, so that they run again."""
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": list(task_ids),
            "only_failed": False,
            "only_running": False,
            "include_downstream": downstream,
            "reset_dag_runs": True,
        }
        return list(self.call("POST", f"/dags/{dag_id}/clearTaskInstances", json=body)["task_instances"])

    def mark(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Set a task instance to ``failed`` or ``success``, as a user does in the UI."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        self.call("PATCH", path, json={"new_state": state})

    def log(self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1) -> str:
        """The log of one try as text, one line per event."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        answer = self.call("GET", path, params={"full_content": True, "map_index": map_index})
        lines = answer["content"]
        return "\n".join(line if isinstance(line, str) else _log_line(line) for line in lines)


def _log_line(entry: Json) -> str:
    known = ("timestamp", "level", "logger", "event")
    rest = {name: value for name, value in entry.items() if name not in known and value is not None}
    head = " ".join(str(entry[name]) for name in known if entry.get(name) is not None)
    return f"{head} {rest}" if rest else head
