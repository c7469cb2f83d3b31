"""Set the constants of the enrichment engine, which operators cannot, so that a test need not wait for hours."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from airflow_provider_segmind.enrichment import engine, recovery, row_reader, row_request
from airflow_provider_segmind.enrichment.settings import Settings

_MODULES: dict[str, ModuleType] = {
    "BYTES_IN_FLIGHT": engine,
    "BUDGET_INTERVAL": engine,
    "COMMIT_DELAY": engine,
    "CONTEST_PAUSE": engine,
    "DEFER_AFTER": engine,
    "FOLD_AT": engine,
    "GRACE": engine,
    "PROGRESS_INTERVAL": engine,
    "HISTORY_COMPLETE_AFTER": recovery,
    "BLOCK_BYTES": row_reader,
    "BLOCK_ROWS": row_reader,
    "OUTAGE_PATIENCE": row_request,
}
_DEFAULTS = {name: getattr(module, name) for name, module in _MODULES.items()}


def tuned(**values: Any) -> Settings:
    """
    Make settings; names that are constants of the engine, in lower case, are set for the process.

    The other constants get their defaults back, as does each with :func:`reset`.
    """
    reset()
    for name in list(values):
        if (constant := name.upper()) in _MODULES:
            setattr(_MODULES[constant], constant, values.pop(name))
    return Settings(**values)


def reset() -> None:
    """Give all constants their defaults back."""
    for name, module in _MODULES.items():
        setattr(module, name, _DEFAULTS[name])
