"""The distributions: built, inspected, and installed into an empty environment."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from email import message_from_bytes
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest

import airflow_provider_segmind
from tests.matrix.environments import find_python
from tests.matrix.versions import VERSIONS, Version

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).parent / "uv"


@pytest.fixture(scope="module", params=[VERSIONS[0], VERSIONS[-1]], ids=lambda version: version.name)
def installed(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and its requirements, pinned as of a release, without this checkout."""
    release: Version = request.param
    venv = tmp_path_factory.mktemp("venv")
    python = venv / "bin" / "python"
    base = find_python(release)
    subprocess.run([UV, "venv", "--quiet", "--clear", "--seed", "--python", base, venv], check=True, timeout=120)
    pins = ["--constraints", release.constraints]
    subprocess.run([UV, "pip", "install", "--quiet", "--python", python, *pins, wheel], check=True, timeout=300)
    return python


def run(python: Path, code: str, cwd: Path) -> str:
    environment = {"AIRFLOW_HOME": str(cwd), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PATH": str(python.parent)}
    done = subprocess.run(
        [python, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_contains_only_the_package_with_its_types_and_the_emulator(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert {
        "airflow_provider_segmind/py.typed",
        "airflow_provider_segmind/get_provider_info.py",
        "airflow_provider_segmind/emulator/__main__.py",
    } <= set(names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"airflow_provider_segmind"}


def test_the_wheel_contains_every_module_of_the_package(wheel: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "airflow_provider_segmind"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert set(listed.stdout.split()) <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_declares_its_name_licence_and_pythons(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_bytes(archive.read(name))

    assert metadata["Name"] == "airflow-provider-segmind"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == "<3.14,>=3.11"
    assert metadata.get_payload().startswith("# airflow-provider-segmind")


def test_the_wheel_installs_without_extras_and_its_requirements_are_consistent(installed: Path) -> None:
    subprocess.run([installed, "-m", "pip", "check"], check=True, capture_output=True, timeout=120)


def test_its_entry_points_load(installed: Path, tmp_path: Path) -> None:
    code = """
import json
from importlib.metadata import distribution
points = distribution("airflow-provider-segmind").entry_points
info = points.select(group="apache_airflow_provider")["provider_info"].load()()
print(json.dumps([sorted({point.group for point in points}), info["package-name"]]))
"""

    groups, name = json.loads(run(installed, code, tmp_path).splitlines()[-1])

    assert {"apache_airflow_provider", "pytest11"} <= set(groups)
    assert name == "airflow-provider-segmind"


def test_airflow_lists_the_installed_provider(installed: Path, tmp_path: Path) -> None:
    code = """
import json
from airflow.providers_manager import ProvidersManager
manager = ProvidersManager()
print(json.dumps([manager.providers["airflow-provider-segmind"].version, "segmind" in manager.hooks]))
"""

    version, has_hook = json.loads(run(installed, code, tmp_path).splitlines()[-1])

    assert version in str(next(installed.parent.parent.rglob("airflow_provider_segmind-*.dist-info")))
    assert has_hook


def test_the_command_in_the_readme_shows_the_provider(installed: Path, tmp_path: Path) -> None:
    environment = {"AIRFLOW_HOME": str(tmp_path), "PATH": str(installed.parent)}
    command = [installed.parent / "airflow", "providers", "list", "--output", "plain"]

    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)

    (line,) = [line for line in done.stdout.splitlines() if line.startswith("airflow-provider-segmind")]
    assert line.split()[-1] == airflow_provider_segmind.__version__


def test_provider_info_matches_airflows_schema() -> None:
    from airflow_provider_segmind.get_provider_info import get_provider_info

    schema = json.loads((files("airflow") / "provider_info.schema.json").read_text())

    jsonschema.validate(get_provider_info(), schema)


def test_every_module_in_provider_info_exists() -> None:
    from airflow_provider_segmind.get_provider_info import get_provider_info

    info = get_provider_info()
    named = [
        module
        for kind in ("hooks", "operators", "sensors", "triggers")
        for each in info.get(kind, [])
        for module in each["python-modules"]
    ]

    assert named
    for module in named:
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), module
