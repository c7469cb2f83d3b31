from __future__ import annotations

from tests.support.databases import database, postgres, postgres_server

__all__ = ["database", "postgres", "postgres_server"]
