"""The versions of Airflow on which the provider is tested, and the other packages in their environments."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

PRICES = "prices"
"""The extra of genai-prices."""
# Packages of managed Airflow services and stores, with which the pins must be compatible; they are resolved only.
MANAGED = (
    "apache-airflow-providers-amazon[s3fs]",
    "apache-airflow-providers-celery",
    "apache-airflow-providers-cncf-kubernetes",
    "apache-airflow-providers-common-io",
    "apache-airflow-providers-common-sql",
    "apache-airflow-providers-fab",
    "apache-airflow-providers-google",
    "apache-airflow-providers-http",
    "apache-airflow-providers-openlineage",
    "apache-airflow-providers-postgres",
    "apache-airflow-providers-redis",
    "apache-airflow-providers-snowflake",
)
# DuckDB is the database of the catalogue example.
TEST_TOOLS = (
    "airflow-provider-duckdb>=0.2.0",
    "blockbuster>=1.5",
    "hatchling>=1.26",
    "hypothesis>=6.100",
    "psycopg2-binary>=2.9",
    "pytest>=8.3",
    "pytest-asyncio>=0.25",
    "pytest-timeout>=2.3",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """
    A version of Airflow and its environment.

    :param airflow: the version.
    :param pythons: Python versions, the preferred one first.
    :param released: the day of its release; its constraints have no newer packages.
    :param lowest: install the package's own dependencies at their lower bounds, and run the tests of the core too.
    :param beside: other packages that deployments of this version have.
    """

    airflow: str
    pythons: tuple[str, ...]
    released: str
    lowest: bool = False
    beside: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name for ``MATRIX=``."""
        return "lowest" if self.lowest else self.airflow

    @property
    def constraints(self) -> Path:
        """The pins as of the day of the release."""
        return ROOT / "constraints" / ("lowest.txt" if self.lowest else f"airflow-{self.airflow}.txt")

    @property
    def tools(self) -> Path:
        """The additional pins of the test requirements."""
        return ROOT / "constraints" / f"tests-{self.name}.txt"

    @property
    def home(self) -> Path:
        """The virtual environment."""
        return ROOT / ".venvs" / self.name


# Airflow 3.0 shows the form fields of providers only with FAB, which its official image has; later ones need no FAB.
VERSIONS = (
    Version(airflow="2.11.0", pythons=("3.11", "3.12"), released="2025-05-20"),
    Version(airflow="2.11.0", pythons=("3.11", "3.12"), released="2025-05-20", lowest=True),
    Version(airflow="2.11.2", pythons=("3.12", "3.11"), released="2026-03-14"),
    Version(airflow="3.0.6", pythons=("3.12", "3.11"), released="2025-08-29", beside=("apache-airflow-providers-fab",)),
    Version(airflow="3.1.8", pythons=("3.12", "3.11", "3.13"), released="2026-03-11"),
    Version(airflow="3.2.2", pythons=("3.12", "3.11", "3.13"), released="2026-05-29"),
    Version(airflow="3.3.2", pythons=("3.13", "3.11", "3.12"), released="2026-09-17"),
)


def project() -> dict[str, Any]:
    """Return the section ``project`` of ``pyproject.toml``."""
    described: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return described


# httpx2 needs newer libraries than older versions pin; the common-ai provider was first released for Airflow 3.2.
FIRST_AIRFLOW = {"common-ai": (3, 2), "httpx2": (3, 3)}


def extras(version: Version) -> dict[str, list[str]]:
    """Return the extras that a version of Airflow allows, but that of prices: those are wanted new, so unpinned."""
    found: dict[str, list[str]] = project()["optional-dependencies"]
    airflow = tuple(map(int, version.airflow.split(".")))
    return {name: wanted for name, wanted in found.items() if name != PRICES and airflow >= FIRST_AIRFLOW.get(name, ())}


def requirements(version: Version) -> list[str]:
    """Return the requirements of the package and its extras, without Airflow."""
    wanted = [*project()["dependencies"], *(each for group in extras(version).values() for each in group)]
    return [each for each in wanted if not each.startswith("apache-airflow>")]
