from __future__ import annotations

import pytest

from tests.support.clients import World
from tests.support.loopback_server import loopback

__all__ = ["loopback", "world"]


@pytest.fixture(params=["sync", "async"])
def world(request: pytest.FixtureRequest) -> World:
    """Return a world whose client is the sync one, then one whose client is the async one."""
    return World(kind=request.param)
