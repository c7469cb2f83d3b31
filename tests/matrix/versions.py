"""Which versions of Airflow the provider is tested on, and with what beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

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
    :param as_of: a day after the release; newer versions of anything break older Airflows. ``None``: newest of all.
    :param lowest: take our own runtime dependencies at their lower bounds, and run the core's tests with them too.
    :param beside: what a deployment of this version has installed beside Airflow.
    """

    airflow: str
    pythons: tuple[str, ...]
    as_of: str | None
    lowest: bool = False
    beside: tuple[str, ...] = ()

    @property
    def constraints(self) -> Path:
        """The pins of this environment."""
        if self.as_of is None:
            return ROOT / "constraints.txt"
        return ROOT / "constraints" / f"airflow-{self.airflow}.txt"

    @property
    def home(self) -> Path:
        """The virtual environment."""
        return ROOT / ".venvs" / self.airflow


# Airflow 3.0 shows no provider's form fields without FAB, which its official image holds; later ones do without it.
VERSIONS = (
    Version(airflow="2.11.2", pythons=("3.11", "3.12"), as_of="2026-03-20", lowest=True),
    Version(airflow="3.0.6", pythons=("3.12", "3.11"), as_of="2025-09-15", beside=("apache-airflow-providers-fab",)),
    Version(airflow="3.1.8", pythons=("3.12", "3.11"), as_of="2026-03-20"),
    Version(airflow="3.2.2", pythons=("3.12", "3.11", "3.13"), as_of="2026-06-10"),
    Version(airflow="3.3.2", pythons=("3.13", "3.11", "3.12"), as_of=None),
)
