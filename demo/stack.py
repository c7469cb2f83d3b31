"""A temporary Airflow 3 of real processes on 127.0.0.1; several can run at the same time."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import httpx
import psutil

from demo.databases import LOCK_TIMEOUT, PATIENT_LOCK_TIMEOUT, Database, SqliteDatabase, temporary_database
from demo.processes import STOP_GRACE, ManagedProcess, Scope, free_port, stop_all
from demo.rest import AirflowRest, Health

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

# Without the option, scheduler and triggerer serve their logs on 0.0.0.0; the API server reads the files itself.
COMMANDS = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
    "worker": ["celery", "worker", "--skip-serve-logs"],
}

HEALTHY = ("metadatabase", "scheduler", "dag_processor", "triggerer")


class StackError(RuntimeError):
    """Airflow did not start, or one of its processes ended unexpectedly."""


@dataclass(frozen=True, slots=True)
class RunningTask:
    """The two processes of a running task: the supervisor, and the runner that executes the operator."""

    supervisor: int
    runner: int


class AirflowStack:
    """
    Starts Airflow's processes, reaches them over REST, kills and restarts them, and cleans up.

    Use it as a context manager: entering migrates the database, starts every process and waits until all are healthy.

    :param home: an empty or missing directory for ``AIRFLOW_HOME``; the caller removes it.
    :param dags: folders with DAG files.
    :param connections: connection id → URI or JSON, the value of ``AIRFLOW_CONN_…``.
    :param settings: Airflow options that override the ones here: ``{"core.parallelism": "8"}``.
    :param environment: additional variables for every process.
    :param database: SQLite by default.
    :param executor: ``LocalExecutor``, or ``CeleryExecutor`` with its broker in ``settings``.
    :param workers: the number of Celery workers: ``worker``, ``worker:2``, …
    :param start_timeout: seconds within which all processes must be healthy.
    """

    def __init__(
        self,
        *,
        home: Path,
        dags: Sequence[Path],
        connections: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        database: Database | None = None,
        executor: str = "LocalExecutor",
        workers: int = 1,
        start_timeout: float = 180,
    ) -> None:
        self.home = home.resolve()
        self.dags = [folder.resolve() for folder in dags]
        self.port = free_port()
        self.base_url = f"http://127.0.0.1:{self.port}"
        self.rest = AirflowRest(base_url=self.base_url)
        self.environment: dict[str, str] = {}
        self.processes: dict[str, ManagedProcess] = {}
        self._connections = dict(connections or {})
        self._settings = dict(settings or {})
        self._extra = dict(environment or {})
        self._database = database or SqliteDatabase()
        self._executor = executor
        self._workers = workers
        self._start_timeout = start_timeout
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        (self.home / "process-logs").mkdir(exist_ok=True)
        # If anything below fails, or the user presses Ctrl-C, what was started so far is stopped.
        with contextlib.ExitStack() as cleanup:
            cleanup.callback(self.rest.close)
            url = cleanup.enter_context(temporary_database(self._database, self.home))
            self.environment = self._build_environment(url)
            self._database.migrate(self._migrate)
            cleanup.callback(self._stop_everything)
            for name in self._names():
                self.start(name)
            self.wait_healthy(timeout=self._start_timeout)
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._cleanup.close()

    def start(self, name: str) -> ManagedProcess:
        """
        Start a process, or start it again.

        :param name: a key of ``COMMANDS``; ``triggerer:2`` is a second triggerer, ``worker:2`` a second worker.
        """
        process = self.processes.get(name)
        if process is None:
            process = self.processes[name] = ManagedProcess(
                name=name,
                command=[sys.executable, "-m", "airflow", *self._command(name)],
                environment=self._environment_of(name),
                log_path=self.home / "process-logs" / f"{name.replace(':', '-')}.log",
            )
        process.start()
        return process

    def _environment_of(self, name: str) -> dict[str, str]:
        variable = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
        url = self.environment[variable]
        if name != "api-server":
            url = url.replace(f"?timeout={LOCK_TIMEOUT}", f"?timeout={PATIENT_LOCK_TIMEOUT}")
        return {**self.environment, variable: url}

    def stop(self, name: str, *, grace: float = STOP_GRACE) -> None:
        """Stop a process and wait for its end."""
        self.processes[name].stop(grace=grace)

    def kill(self, name: str, signal_number: int = signal.SIGKILL, *, scope: Scope = "group") -> None:
        """Send a signal to a process; see :meth:`demo.processes.ManagedProcess.kill` for the scope."""
        self.processes[name].kill(signal_number, scope=scope)

    def pid(self, name: str) -> int:
        """The process id of one of the processes."""
        return self.processes[name].pid

    def running_task(self, task_instance_id: str, *, timeout: float = 30) -> RunningTask:
        """
        Find the processes that execute a task instance.

        :param task_instance_id: the ``id`` of a task instance in the REST API.
        :param timeout: seconds to wait for them to appear.
        """
        deadline = time.monotonic() + timeout
        while True:
            for name in self.processes:
                if name.partition(":")[0] not in ("scheduler", "worker"):
                    continue
                for process in self.processes[name].descendants():
                    with contextlib.suppress(psutil.NoSuchProcess):
                        if f"airflow worker -- {task_instance_id}" in " ".join(process.cmdline()):
                            return RunningTask(supervisor=process.ppid(), runner=process.pid)
            if time.monotonic() >= deadline:
                raise StackError(f"No process executes task instance {task_instance_id!r}.")
            time.sleep(0.1)

    def wait_healthy(self, *, timeout: float) -> None:
        """Wait until every component is healthy, with a heartbeat since its last start."""
        deadline = time.monotonic() + timeout
        health: dict[str, Health] = {}
        while not all(self._is_healthy(name, health.get(name)) for name in HEALTHY):
            self.check_alive()
            if time.monotonic() >= deadline:
                raise StackError(f"Airflow was not healthy after {timeout:.0f} s: {health}. Logs: {self.home}")
            time.sleep(0.3)
            with contextlib.suppress(httpx.HTTPError):
                health = self.rest.health()

    def check_alive(self) -> None:
        """Raise an error with the end of the log if a process has ended."""
        for process in self.processes.values():
            if process.exit_code is not None:
                raise StackError(f"{process.name} ended with code {process.exit_code}:\n{process.log_tail()}")

    def restart_crashed(self) -> list[str]:
        """
        Restart the processes that ended unexpectedly, as a service manager would.

        Airflow's scheduler may end when SQLite stays locked for longer than the timeout.

        :returns: for each, its name, exit code and the end of its log.
        """
        reports = []
        for name, process in self.processes.items():
            if process.crashed:
                reports.append(f"{name} ended with code {process.exit_code} and was restarted:\n{process.log_tail()}")
                process.start()
        return reports

    def files_with(self, text: str) -> list[Path]:
        """Every file below the home that contains a string, including logs and the SQLite database."""
        needle = text.encode()
        return [path for path in sorted(self.home.rglob("*")) if path.is_file() and needle in path.read_bytes()]

    def _is_healthy(self, component: str, health: Health | None) -> bool:
        if health is None or health.status != "healthy":
            return False
        process = self.processes.get(component.replace("_", "-"))
        # A killed process still counts as healthy for half a minute after its last heartbeat.
        return process is None or (health.heartbeat is not None and health.heartbeat > process.started_at)

    def _command(self, name: str) -> list[str]:
        command = COMMANDS[name.partition(":")[0]]
        if name.startswith("worker"):
            # These distinguish Celery's workers on one machine; the file remains when a worker is killed.
            node = name.replace(":", "-")
            return [*command, "--celery-hostname", f"{node}@127.0.0.1", "--pid", str(self.home / f"{node}.pid")]
        return command

    def _names(self) -> list[str]:
        workers = ["worker", *(f"worker:{number}" for number in range(2, self._workers + 1))]
        return [*(name for name in COMMANDS if name != "worker"), *(workers if "Celery" in self._executor else [])]

    def _stop_everything(self) -> None:
        # A scheduler waits for its tasks and a triggerer 10 s for its runner; their results are not needed.
        for name, process in self.processes.items():
            if name.startswith("worker"):
                # A worker would replace its pool and wait for it.
                process.kill(scope="tree")
            process.kill_descendants()
        stop_all(self.processes.values())

    def _migrate(self) -> None:
        log_path = self.home / "process-logs" / "migrate.log"
        with log_path.open("wb") as log:
            command = [sys.executable, "-m", "airflow", "db", "migrate"]
            done = subprocess.run(command, env=self.environment, stdout=log, stderr=log, check=False, timeout=300)
        if done.returncode:
            raise StackError(f"airflow db migrate ended with code {done.returncode}:\n{log_path.read_text()[-3000:]}")

    def _build_environment(self, database_url: str) -> dict[str, str]:
        bundles = [
            {
                "name": "dags-folder" if number == 0 else f"dags-{number}",
                "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
                "kwargs": {"path": str(folder)},
            }
            for number, folder in enumerate(self.dags)
        ]
        settings = {
            "api.base_url": self.base_url,
            "api.host": "127.0.0.1",
            "api.port": str(self.port),
            "api.workers": "1",
            "api_auth.jwt_secret": secrets.token_hex(64),
            "core.dags_folder": str(self.dags[0]),
            "core.execution_api_server_url": f"{self.base_url}/execution/",
            "core.executor": self._executor,
            "core.load_examples": "False",
            "core.parallelism": "4",
            "core.simple_auth_manager_all_admins": "True",
            "core.test_connection": "Enabled",
            "dag_processor.dag_bundle_config_list": json.dumps(bundles),
            # The files do not change; parsing the two dozen of the tests every few seconds would occupy a core.
            "dag_processor.min_file_process_interval": "120",
            "dag_processor.parsing_processes": "1",
            "dag_processor.refresh_interval": "5",
            # On a busy machine a parse may take a minute, and Airflow would deactivate its DAGs in the middle of a run.
            "dag_processor.stale_dag_threshold": "600",
            "database.sql_alchemy_conn": database_url,
            "scheduler.scheduler_idle_sleep_time": "0.5",
            "usage_data_collection.enabled": "False",
            # Longer than the API server may wait for SQLite.
            "workers.execution_api_timeout": "20",
            **self._settings,
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "SEGMIND"))}
        return {
            **inherited,
            "AIRFLOW_HOME": str(self.home),
            **{f"AIRFLOW__{key.replace('.', '__', 1).upper()}": value for key, value in settings.items()},
            **{f"AIRFLOW_CONN_{name.upper()}": value for name, value in self._connections.items()},
            "NO_COLOR": "1",
            # Calls between the processes must not go through a proxy.
            "NO_PROXY": ",".join(filter(None, ["127.0.0.1,localhost", os.environ.get("NO_PROXY")])),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONUNBUFFERED": "1",
            **self._extra,
        }
