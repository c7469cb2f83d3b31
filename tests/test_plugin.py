"""The plugin costs nothing until somebody opens the page, and exists only where the UI can show it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import entry_points
from typing import Any

import pytest

from airflow_provider_segmind import compat, plugin


def test_airflow_finds_the_plugin() -> None:
    (found,) = [one for one in entry_points(group="airflow.plugins") if one.name == "segmind"]

    assert found.load() is plugin.SegmindPlugin


def test_loading_the_plugin_builds_no_page() -> None:
    code = (
        "import airflow.plugins_manager, sys; before = set(sys.modules)\n"
        "from airflow_provider_segmind.plugin import SegmindPlugin\n"
        "heavy = ('fastapi', 'jinja2', 'airflow_provider_segmind.monitoring')\n"
        "assert not [name for name in set(sys.modules) - before if name.startswith(heavy)]"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True)


def test_the_page_is_in_the_navigation_at_an_address_relative_to_the_ui() -> None:
    (view,) = plugin.SegmindPlugin.external_views
    (app,) = plugin.SegmindPlugin.fastapi_apps

    assert (view["destination"], view["url_route"]) == ("nav", "segmind")
    assert f"/{view['href']}" == f"{app['url_prefix']}/"
    assert not view["icon"].startswith(("/", "http"))


@pytest.fixture
def old_plugin(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plugin as Airflow 3.0 loads it."""
    monkeypatch.setattr(compat, "airflow_version", lambda: (3, 0, 6))
    yield importlib.reload(plugin).SegmindPlugin
    monkeypatch.undo()
    importlib.reload(plugin)


def test_before_airflow_3_1_the_plugin_adds_nothing(old_plugin: Any) -> None:
    assert old_plugin.name == "segmind"
    assert old_plugin.fastapi_apps == old_plugin.external_views == []
