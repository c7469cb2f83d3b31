from __future__ import annotations

import importlib
import os
import pkgutil
import shutil
import subprocess
import sys
from importlib.metadata import requires, version

import pytest
from packaging.requirements import Requirement

import airflow_provider_segmind
from airflow_provider_segmind.compat import airflow_version
from airflow_provider_segmind.defaults import PAGE_AIRFLOW

pytestmark = pytest.mark.matrix


def test_this_is_the_requested_airflow_version() -> None:
    assert version("apache-airflow") == os.environ.get("SEGMIND_MATRIX_AIRFLOW", version("apache-airflow"))


def test_every_dependency_is_within_the_declared_bounds() -> None:
    declared = [Requirement(each) for each in requires("airflow-provider-segmind") or []]

    for requirement in declared:
        if requirement.marker is None:
            assert version(requirement.name) in requirement.specifier, requirement.name


def test_pip_check_finds_nothing() -> None:
    uv = os.environ.get("SEGMIND_MATRIX_UV") or shutil.which("uv")
    if uv is None:
        pytest.skip("uv is missing; `make matrix` says where it is")

    done = subprocess.run(
        [uv, "pip", "check", "--python", sys.executable], capture_output=True, text=True, check=False, timeout=120
    )

    assert done.returncode == 0, done.stderr


def test_airflow_discovers_the_provider_and_its_connection_type() -> None:
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()

    assert manager.providers["airflow-provider-segmind"].version == airflow_provider_segmind.__version__
    hook = manager.hooks["segmind"]
    assert hook is not None
    assert hook.hook_class_name == "airflow_provider_segmind.hooks.segmind.SegmindHook"


def test_airflow_loads_the_plugin_and_has_the_page_where_the_ui_can_show_it() -> None:
    from airflow import plugins_manager

    plugins_manager.ensure_plugins_loaded()
    if hasattr(plugins_manager, "get_import_errors"):
        plugins, errors = plugins_manager._get_plugins()
    else:
        plugins, errors = plugins_manager.plugins, plugins_manager.import_errors
    (ours,) = [one for one in plugins if one.name == "segmind"]

    assert errors == {}
    assert bool(getattr(ours, "external_views", [])) == (airflow_version() >= PAGE_AIRFLOW)


@pytest.mark.parametrize(
    "name",
    sorted(
        each.name
        for each in pkgutil.walk_packages(airflow_provider_segmind.__path__, "airflow_provider_segmind.")
        # pydantic-ai imports httpx2, which these tests forbid; test_common_ai.py runs it in another process.
        if not each.name.endswith(("__main__", ".agent_model"))
        # The page is imported where the UI can show it, and needs the API server of Airflow 3.
        and (".page." not in each.name or airflow_version() >= PAGE_AIRFLOW)
    ),
)
def test_every_module_can_be_imported(name: str) -> None:
    if name.endswith(".lineage"):
        # Only OpenLineage's provider calls for it, and only where that is installed.
        pytest.importorskip("openlineage.client.facet_v2", exc_type=ImportError)
    importlib.import_module(name)
