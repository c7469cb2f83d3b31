"""
The page in Airflow's navigation, from Airflow 3.1 on. Short because the page itself is in ``monitoring/page``.

Airflow loads plugins in each of its processes, so nothing is imported here until somebody opens the page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from airflow_provider_segmind.compat import AirflowPlugin, airflow_version
from airflow_provider_segmind.defaults import PAGE_AIRFLOW, PAGE_PREFIX

_Message: TypeAlias = MutableMapping[str, Any]


class PageApp:
    """The ASGI application of the page, built by the first request."""

    def __init__(self) -> None:
        self._app: Any = None

    async def __call__(
        self, scope: _Message, receive: Callable[[], Awaitable[_Message]], send: Callable[[_Message], Awaitable[None]]
    ) -> None:
        """Answer a request."""
        if self._app is None:
            self._app = await asyncio.to_thread(_build)
        await self._app(scope, receive, send)


def _build() -> Any:
    from airflow_provider_segmind.monitoring.page.app import build_app

    return build_app()


class SegmindPlugin(AirflowPlugin):
    """The page *Segmind*: what is in flight, what was spent, what each table did."""

    name = "segmind"
    if airflow_version() >= PAGE_AIRFLOW:
        fastapi_apps: list[Any] = [{"app": PageApp(), "url_prefix": PAGE_PREFIX, "name": "Segmind"}]
        # Addresses are relative to the UI's base, so that they are right behind any prefix of [api] base_url.
        external_views: list[Any] = [
            {
                "name": "Segmind",
                "href": f"{PAGE_PREFIX.lstrip('/')}/",
                "destination": "nav",
                "url_route": "segmind",
                "icon": f"{PAGE_PREFIX.lstrip('/')}/static/icon.svg",
            }
        ]
