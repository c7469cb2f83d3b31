from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.engine_tuning import reset


@pytest.fixture(autouse=True)
def untuned_engine() -> Iterator[None]:
    """Leave the engine's constants as they are for other tests of this process."""
    yield
    reset()
