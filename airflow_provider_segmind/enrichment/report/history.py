"""What a report takes from other files: earlier runs of the same table, and keys of rows without an answer."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from airflow_provider_segmind.enrichment.dead_letters import read_letters
from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.outcomes import Outcome, in_short
from airflow_provider_segmind.enrichment.storage import StorePath, names_if_any
from airflow_provider_segmind.exceptions import SegmindError, shorten

log = logging.getLogger(__name__)
MANIFEST_ENDING = ".manifest.json"
_SAMPLE = ".sample."
RUNS_SHOWN = 9
"""Earlier runs in a report, which has ten with its own."""
MOST_READ = 5
"""Manifests of other paths that are read for them."""
MOST_LINES = 20_000
"""Dead letters that are read for the keys."""
KEYS = 3
KEY_CHARACTERS = 60


def earlier_runs(path: StorePath, *, run_id: str) -> list[dict[str, Any]]:
    """
    Return the earlier runs of a table, the latest first.

    They are in the manifest that is about to be replaced or, if each run has its own path, in the manifests of the same
    task in that folder.

    :param path: of the manifest.
    :param run_id: of the run whose manifest is going to be there.
    :returns: of each ``run_id``, ``ended`` (epoch seconds), ``rows``, ``answered``, ``cost`` (USD), ``model`` and
        ``prompt_hash``.
    """
    try:
        return _earlier_runs(path, run_id)
    except Exception as error:  # noqa: BLE001 - stores raise errors of their own, and the answers are still to be written
        log.warning("Earlier runs of the table cannot be read: %s: %s", type(error).__name__, error)
        return []


def _earlier_runs(path: StorePath, run_id: str) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    own = Manifest(run_id=run_id, model="")
    replaced = _read(path)
    # It carries the runs before it, so that a folder of many files is not listed for them.
    for manifest in [replaced] if replaced is not None else filter(None, map(_read, _beside(path))):
        if _table(manifest) == _table(own):
            for one in (summary_of(manifest), *manifest.earlier):
                known = found.get(one["run_id"])
                if known is None or known["ended"] < one["ended"]:
                    found[one["run_id"]] = one
    found.pop(run_id, None)
    return sorted(found.values(), key=lambda one: -one["ended"])[:RUNS_SHOWN]


def other_output(path: StorePath, output: StorePath) -> str | None:
    """
    Return which other output the manifest at a path describes, None if there is none or it cannot be read.

    Outputs that differ only by their endings share the names of the files next to them.
    """
    replaced = _read_if_possible(path)
    outputs = [] if replaced is None else replaced.outputs
    return next((each for each in outputs if each != str(output)), None)


def mapped_sibling(path: StorePath, run_id: str) -> int | None:
    """
    Return which other instance of a mapped task wrote the manifest at a path, in the same DAG run.

    :param run_id: of this instance's enrichment.
    :returns: its map index, None if none of them did.
    """
    *task, own_index = Manifest(run_id=run_id, model="").task
    if own_index < 0 or (written := _read_if_possible(path)) is None:
        return None
    *its_task, map_index = written.task
    return map_index if its_task == task and map_index not in (own_index, -1) else None


def _read_if_possible(path: StorePath) -> Manifest | None:
    try:
        return _read(path)
    except Exception as error:  # noqa: BLE001 - stores raise errors of their own, and whether files can be written is checked elsewhere
        log.debug("The manifest of an earlier run cannot be read: %s", type(error).__name__)
        return None


def example_keys(paths: Iterable[StorePath]) -> dict[tuple[str, str], list[str]]:
    """
    Return some keys of rows without an answer, by outcome and reason in short.

    :param paths: of the dead letters.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for path in paths:
        for letter in islice(read_letters(path), MOST_LINES):
            keys = found.setdefault((letter.outcome, in_short(letter.reason)), [])
            if len(keys) < KEYS:
                keys.append(shown_key(letter.key))
    return found


def shown_key(key: Mapping[str, Any]) -> str:
    """Return a key as a report shows it."""
    whole = ", ".join(str(value) for value in key.values()) if len(key) == 1 else json.dumps(key, ensure_ascii=False)
    return shorten(whole, KEY_CHARACTERS)


def _beside(path: StorePath) -> list[StorePath]:
    names = sorted(name for name in names_if_any(path.parent) if name.endswith(MANIFEST_ENDING))
    sampled = _SAMPLE in path.name
    return [path.parent / name for name in names if (_SAMPLE in name) is sampled][-MOST_READ:]


def _read(path: StorePath) -> Manifest | None:
    try:
        with path.open("rb") as file:
            return Manifest.from_json(json.loads(file.read()))
    except (OSError, ValueError, SegmindError):
        return None


def _table(manifest: Manifest) -> tuple[str, str, int]:
    """Return what all runs of one table have in common; a table of shards has as many as there are shards."""
    dag_id, _, task_id, map_index = manifest.task
    return dag_id, task_id, map_index


def summary_of(manifest: Manifest) -> dict[str, Any]:
    """Return what a list of runs shows of one; see :func:`earlier_runs`."""
    return {
        "run_id": manifest.run_id,
        "ended": manifest.ended,
        "rows": manifest.rows_read,
        "answered": manifest.outcomes[Outcome.SUCCESS],
        "cost": manifest.cost,
        "model": manifest.model,
        "prompt_hash": manifest.prompt_hash,
    }
