"""
For all tests: no network except loopback, and a temporary Airflow home.

The environment is set when pytest loads this file, before any test module can import Airflow, which reads it once.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from demo.databases import SqliteDatabase
from tests.guards import imports, network, services
from tests.support.examples import examples

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
AIRFLOW_HOME = Path(tempfile.mkdtemp(prefix="segmind-airflow-"))
if os.environ.get("SEGMIND_TESTS_HTTPX2"):
    importlib.import_module("httpx2")
else:
    # Importing it fails, as where only Airflow's httpx is installed; `make fast` tests the client with both. It is done
    # here because pytest loads the other conftest modules, and with them the client, before it configures anything.
    sys.modules["httpx2"] = None  # type: ignore[assignment]


def _airflow_environment() -> dict[str, str]:
    bundles = [
        {
            "name": name,
            "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle",
            "kwargs": {"path": str(ROOT / folder)},
        }
        for name, folder in (("dags-folder", "dags_examples"), ("tests", "tests/dags"))
    ]
    return {
        "AIRFLOW_HOME": str(AIRFLOW_HOME),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(64),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags_examples"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{AIRFLOW_HOME}/airflow.db",
        # Disables the guard against calling execute() directly, which unit tests do.
        "AIRFLOW__CORE__UNIT_TEST_MODE": "True",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        "NO_COLOR": "1",
    }


# The machine's settings are removed. Not later: pytest loads the other conftest modules of the directories it is given
# before it configures anything, and some of them import Airflow.
for name in [name for name in os.environ if name.startswith(("AIRFLOW", "SEGMIND_API"))]:
    del os.environ[name]
os.environ.update(_airflow_environment())
atexit.register(shutil.rmtree, AIRFLOW_HOME, ignore_errors=True)


# How long an example takes says more about the machine than about the code. With CI=true this profile is derived from
# hypothesis's own for CI, whose examples are the same in every run.
settings.register_profile("untimed", deadline=None, max_examples=examples(100))
settings.load_profile("untimed")


def pytest_configure(config: pytest.Config) -> None:
    """Install the guards."""
    network.forbid()
    if os.environ.get("SEGMIND_TESTS_FORBID_AIRFLOW"):
        imports.forbid_airflow()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that run DAGs, so that no process of several is left with one of them at the end."""
    first = {item.path for item in items if item.get_closest_marker("airflow")}
    items.sort(key=lambda item: item.path not in first)


@pytest.fixture(scope="session")
def airflow_database() -> Path:
    """
    Create the metadata database for ``dag.test()``, once per session.

    It is a copy of one in ``.tmp`` that is migrated once per version of Airflow, in about 12 s.
    """
    database = SqliteDatabase()
    database.create(AIRFLOW_HOME)
    command = [sys.executable, "-m", "airflow", "db", "migrate"]
    database.migrate(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300))
    return AIRFLOW_HOME / "airflow.db"


@pytest.fixture(autouse=True)
def _nothing_learned() -> Iterator[None]:
    """Forget rate limits and latencies that this process learned in earlier tests."""
    yield
    limits, schedule = (
        sys.modules.get(f"airflow_provider_segmind.client.{name}") for name in ("rate_limiter", "poll_schedule")
    )
    if limits is not None:
        limits._limiters.clear()
    if schedule is not None:
        schedule.shared_history._models.clear()


@pytest.fixture(autouse=True)
def _untuned_engine() -> Iterator[None]:
    """Give the engine's constants their defaults back after a test that set them."""
    yield
    tuning = sys.modules.get("tests.support.engine_tuning")
    if tuning is not None:
        tuning.reset()


@pytest.fixture(autouse=True)
def _services(request: pytest.FixtureRequest) -> None:
    """Skip, or in CI fail, a marked test whose service is missing."""
    if request.node.get_closest_marker("postgres"):
        services.need_service("PostgreSQL", 5432)
    if request.node.get_closest_marker("mariadb"):
        services.need_service("MariaDB", 3306)
    if request.node.get_closest_marker("redis"):
        services.need_service("Redis", 6379)
