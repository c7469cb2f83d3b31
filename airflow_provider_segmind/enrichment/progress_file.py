"""
The progress of a run as a small file in its ledger, for processes that cannot ask the task. Short because that is all.

It is there while the run works or is deferred, and is deleted when its answers are written; a killed run leaves it, and
its time shows that it is old.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from airflow_provider_segmind.enrichment.storage import StorePath, make_folder, names_if_any, read_now, write_whole

PROGRESS_FOLDER = "progress"


def write_progress(ledger: StorePath, run: str, values: Mapping[str, Any], **about: str) -> None:
    """
    Replace the progress of a run; blocks.

    :param values: as JSON; the time is in ``at``, epoch seconds.
    :param about: more of it, that does not change.
    :raises OSError: or another error of the store.
    """
    file = _file(ledger, run)
    make_folder(file.parent)
    with write_whole(file) as whole:
        whole.write(json.dumps({"run": run, **about, **values}).encode())


def delete_progress(ledger: StorePath, run: str) -> None:
    """
    Delete the progress of a run that has ended.

    :raises OSError: or another error of the store.
    """
    _file(ledger, run).unlink(missing_ok=True)


def read_progress(ledger: StorePath, run: str) -> dict[str, Any] | None:
    """
    Return the progress of a run, None if there is none.

    :raises OSError: or another error of the store.
    """
    return _read(_file(ledger, run))


def all_progress(ledger: StorePath) -> list[dict[str, Any]]:
    """Return the progress of every run over a ledger that has not ended, the latest first."""
    names = names_if_any(ledger / PROGRESS_FOLDER)
    found = [_read(ledger / PROGRESS_FOLDER / name) for name in names if name.endswith(".json") and name[0] != "."]
    return sorted((one for one in found if one), key=lambda one: one.get("at") or 0.0, reverse=True)


def _read(file: StorePath) -> dict[str, Any] | None:
    try:
        values = json.loads(read_now(file))
    except (FileNotFoundError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _file(ledger: StorePath, run: str) -> StorePath:
    return ledger / PROGRESS_FOLDER / f"{hashlib.sha256(run.encode()).hexdigest()[:32]}.json"
