"""The metadata database of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.metadata import Metadata


@pytest.fixture
def metadata(airflow_database: Path) -> Iterator[Metadata]:
    # pytest loads this file before the environment of the tests is set, which Airflow reads once.
    from tests.support.metadata import open_metadata

    with open_metadata() as opened:
        yield opened
