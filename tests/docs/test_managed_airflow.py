"""What docs/how-to/managed-airflow.md and storage.md say about requirements is what the package has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from airflow_provider_segmind.get_provider_info import get_provider_info
from airflow_provider_segmind.stores import PACKAGES
from tests.matrix.versions import VERSIONS, project

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to"
MANAGED = (HOW_TO / "managed-airflow.md").read_text()
STORAGE = (HOW_TO / "storage.md").read_text()
FILES = re.findall(r"^```text\n(.*?)^```$", MANAGED, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("text", FILES, ids=["mwaa", "composer", "astronomer"])
def test_a_requirements_file_names_extras_that_there_are(text: str) -> None:
    required = [Requirement(line) for line in text.splitlines() if not line.startswith("--")]

    (ours,) = (each for each in required if each.name == "airflow-provider-segmind")
    assert ours.extras
    assert ours.extras <= set(project()["optional-dependencies"])
    assert {str(each) for each in required if each is not ours} <= set(PACKAGES.values())


def test_the_constraints_are_those_of_tested_versions() -> None:
    named = re.findall(r"constraints-([\d.]+)/constraints-([\d.]+)\.txt", "".join(FILES))
    tested = {(version.airflow, python) for version in VERSIONS for python in version.pythons}

    assert len(named) == 2
    assert set(named) <= tested


def test_every_option_in_a_configuration_file_of_the_pages_exists() -> None:
    options = set(get_provider_info()["config"]["segmind"]["options"])
    named = {
        name
        for page in (HOW_TO.parent).rglob("*.md")
        for block in re.findall(r"^```ini\n\[segmind\]\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for name in re.findall(r"^(\w+) =", block, flags=re.MULTILINE)
    }

    assert {"output_path", "state_path", "spend_path"} <= named <= options


def test_every_package_of_a_store_is_in_the_table() -> None:
    assert set(PACKAGES.values()) == set(re.findall(r"\| `(apache-airflow-providers-[^`]+)` \|", STORAGE))
