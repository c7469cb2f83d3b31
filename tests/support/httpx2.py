"""httpx2 for what Airflow and its providers do with it; tests/conftest.py withholds it from this package."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest


@cache
def installed_httpx2() -> Any:
    """Return the module, None where it is not installed; always the same one, as its parts know each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, "httpx2", raising=False)
        return import_module("httpx2") if find_spec("httpx2") else None


@contextmanager
def with_httpx2() -> Iterator[None]:
    """Let imports in the block find it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "httpx2", installed_httpx2())
        yield
