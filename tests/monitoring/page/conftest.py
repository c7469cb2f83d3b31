"""
The page inside Airflow's own API application, with its authorisation, over the metadata database of the tests.

Nothing of Airflow is imported here before a fixture runs: pytest loads this file before Airflow's environment is set.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from tests.support.metadata import Metadata

HOST = "http://airflow.test"


@pytest.fixture(scope="session")
def api_app(airflow_database: Path) -> Any:
    """Airflow's API application, with the plugins that Airflow finds."""
    with warnings.catch_warnings():
        # Airflow's own, about its dependencies.
        warnings.simplefilter("ignore")
        from airflow.api_fastapi.app import create_app

        return create_app(apps="core")


@pytest.fixture
def stored(api_app: Any) -> Iterator[Metadata]:
    """The metadata database; what is added is there for every session, until the test ends."""
    from tests.support.metadata import stored_metadata

    with stored_metadata() as opened:
        yield opened


class Visitor:
    """A browser at the API server, logged in with a role or not at all."""

    def __init__(self, app: Any, role: str | None) -> None:
        from airflow.api_fastapi.app import get_auth_manager
        from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser

        self._app = app
        self._cookies = {}
        if role is not None:
            user = SimpleAuthManagerUser(username="somebody", role=role)
            self._cookies["_token"] = get_auth_manager().generate_jwt(user)

    def get(self, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._send("GET", path, options))

    def post(self, path: str, **options: Any) -> httpx.Response:
        return asyncio.run(self._send("POST", path, options))

    async def _send(self, method: str, path: str, options: dict[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(self._app)
        async with httpx.AsyncClient(transport=transport, base_url=HOST, cookies=self._cookies) as client:
            # A path of Airflow's own API is taken as it is.
            return await client.request(method, path if path.startswith("/api/") else f"/segmind{path}", **options)


@pytest.fixture
def visit(api_app: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Visitor]:
    """Make a visitor with a role, an administrator by default; None is not logged in."""
    # The page sets this for its process, which here goes on to run other tests.
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")
    return lambda role="admin": Visitor(api_app, role)


@pytest.fixture
def only_dag(monkeypatch: pytest.MonkeyPatch, api_app: Any) -> Callable[..., None]:
    """Restrict every user to one DAG, and to some of its parts, as other auth managers can."""
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    def restrict(dag_id: str, *, without: str = "") -> None:
        def is_authorized_dag(_: Any, *, details: Any = None, access_entity: Any = None, **__: Any) -> bool:
            readable = details is None or details.id in (None, dag_id)
            return readable and not (access_entity is not None and access_entity.value == without)

        monkeypatch.setattr(SimpleAuthManager, "is_authorized_dag", is_authorized_dag)

    return restrict
