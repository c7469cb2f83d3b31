"""Which versions of Airflow the provider is tested on, and with what beside them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# What managed services have installed beside Airflow, so that the pins agree with it; it is resolved, not installed.
MANAGED = (
    "apache-airflow-providers-amazon",
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
# DuckDB is the database of the example of a catalogue.
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
    One Airflow and how to get an environment that works with it.

    :param airflow: the version.
    :param pythons: Python versions, best first.
    :param released: the day; what is newer than it is not in this Airflow's constraints either.
    :param lowest: take our own runtime dependencies at their lower bounds, and run the core's tests with them too.
    :param beside: what a deployment of this version has installed beside Airflow.
    """

    airflow: str
    pythons: tuple[str, ...]
    released: str
    lowest: bool = False
    beside: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What ``MATRIX=`` calls it."""
        return "lowest" if self.lowest else self.airflow

    @property
    def constraints(self) -> Path:
        """The pins of the release's day."""
        return ROOT / "constraints" / ("lowest.txt" if self.lowest else f"airflow-{self.airflow}.txt")

    @property
    def tools(self) -> Path:
        """The pins of what tests need beyond them."""
        return ROOT / "constraints" / f"tests-{self.name}.txt"

    @property
    def home(self) -> Path:
        """The virtual environment."""
        return ROOT / ".venvs" / self.name


# Airflow 3.0 shows no provider's form fields without FAB, which its official image holds; later ones do without it.
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
    """Return what ``pyproject.toml`` says of the package."""
    described: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return described


def extras(version: Version) -> dict[str, list[str]]:
    """Return our extras that can be installed with an Airflow; httpx2 needs newer libraries than older ones pin."""
    found: dict[str, list[str]] = project()["optional-dependencies"]
    known = tuple(map(int, version.airflow.split("."))) >= (3, 3)
    return {name: wanted for name, wanted in found.items() if known or name != "httpx2"}


def requirements(version: Version) -> list[str]:
    """Return what the package and its extras ask for, Airflow apart."""
    wanted = [*project()["dependencies"], *(each for group in extras(version).values() for each in group)]
    return [each for each in wanted if not each.startswith("apache-airflow>")]
