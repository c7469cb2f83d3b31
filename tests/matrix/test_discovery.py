from __future__ import annotations

import importlib
import os
import pkgutil
from importlib.metadata import requires, version

import pytest
from packaging.requirements import Requirement

import airflow_provider_segmind

pytestmark = pytest.mark.matrix


def test_this_is_the_requested_airflow_version() -> None:
    assert version("apache-airflow") == os.environ.get("SEGMIND_MATRIX_AIRFLOW", version("apache-airflow"))


def test_every_dependency_is_within_the_declared_bounds() -> None:
    declared = [Requirement(each) for each in requires("airflow-provider-segmind") or []]

    for requirement in declared:
        if requirement.marker is None:
            assert version(requirement.name) in requirement.specifier, requirement.name


def test_airflow_discovers_the_provider_and_its_connection_type() -> None:
    from airflow.providers_manager import ProvidersManager

    manager = ProvidersManager()

    assert manager.providers["airflow-provider-segmind"].version == airflow_provider_segmind.__version__
    hook = manager.hooks["segmind"]
    assert hook is not None
    assert hook.hook_class_name == "airflow_provider_segmind.hooks.segmind.SegmindHook"


@pytest.mark.parametrize(
    "name",
    sorted(
        each.name
        for each in pkgutil.walk_packages(airflow_provider_segmind.__path__, "airflow_provider_segmind.")
        if not each.name.endswith("__main__")
    ),
)
def test_every_module_can_be_imported(name: str) -> None:
    importlib.import_module(name)
