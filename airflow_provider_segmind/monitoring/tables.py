"""
A table as its manifest and its ledger describe it, and what is known of one row.

Rows have no names in a ledger, only fingerprints. A key is found in the output file or in the dead letters that a
manifest names, which have the request id or the fingerprint.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any

from airflow_provider_segmind.client.submission import iso
from airflow_provider_segmind.defaults import LEDGER_FOLDER
from airflow_provider_segmind.enrichment.dead_letters import read_letters
from airflow_provider_segmind.enrichment.files.readers import kind_of, open_source
from airflow_provider_segmind.enrichment.forget import Places
from airflow_provider_segmind.enrichment.ledger.events import REUSED, Event, Finished, from_line, marks_of
from airflow_provider_segmind.enrichment.ledger.ledger import LIVE, Ledger
from airflow_provider_segmind.enrichment.ledger.prompts import prompt_hash_of, prompt_of
from airflow_provider_segmind.enrichment.ledger.row_state import RunTotals
from airflow_provider_segmind.enrichment.ledger.segments import segment_names
from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.output import FINGERPRINT_COLUMN, ROW_COLUMN
from airflow_provider_segmind.enrichment.rows import plain_text
from airflow_provider_segmind.enrichment.sql.dialects import TableName, dialect_of
from airflow_provider_segmind.enrichment.sql.removal import AnswerRows
from airflow_provider_segmind.enrichment.storage import StorePath, read_now
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.money import micros
from airflow_provider_segmind.stores import database_hook, locate

_PLAIN_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:e[+-]\d+)?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedTable:
    """
    What a manifest or the folder of a ledger gives access to.

    :param manifest: None where a ledger was named.
    :param ledger: None where it cannot be found.
    """

    manifest: Manifest | None
    ledger: StorePath | None


@dataclass(slots=True)
class LedgerRun(RunTotals):
    """
    What one run has spent according to a ledger, on the rows whose latest outcome is of this run.

    :param last_at: epoch seconds of its last outcome.
    """

    tokens: int = 0
    last_at: float = 0.0


@dataclass(slots=True)
class LedgerTotals:
    """
    A whole ledger.

    :param outcomes: distinct rows by their latest outcome.
    :param waiting: rows whose request was accepted and whose answer is not there yet.
    :param unresolved: rows of which it is unknown whether their request was sent.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    unresolved: int = 0
    models: Counter[str] = field(default_factory=Counter)
    runs: dict[str, LedgerRun] = field(default_factory=dict)


def open_table(target: str, ledger: str | None = None) -> OpenedTable:
    """
    Find a manifest and its ledger, or a ledger alone.

    :param ledger: its folder, where the manifest does not name it.
    :raises SegmindConfigError: the target is neither.
    :raises SegmindError: it cannot be read here.
    """
    path = locate(target)
    if not target.rstrip("/").endswith(".json"):
        if not path.is_dir() or not (segment_names(path) or segment_names(path / LIVE)):
            raise SegmindConfigError(
                f"{target!r} is neither the folder of a ledger nor a manifest (a file ….manifest.json)."
            )
        return OpenedTable(manifest=None, ledger=path)
    try:
        manifest = Manifest.from_json(json.loads(read_now(path)))
    except ValueError as error:
        raise SegmindConfigError(f"{target!r} is not JSON, so it is not a manifest.") from error
    address = ledger or manifest.ledger
    if address is not None:
        return OpenedTable(manifest=manifest, ledger=locate(address))
    beside = path.parent / LEDGER_FOLDER
    return OpenedTable(manifest=manifest, ledger=beside if beside.is_dir() else None)


def ledger_totals(folder: StorePath) -> LedgerTotals:
    """Read a whole ledger and add up its rows; takes seconds for 100,000 rows."""
    totals = LedgerTotals()
    ledger = _opened(folder)
    try:
        for line in ledger.dump():
            if isinstance(event := from_line(line), Finished):
                _add(totals, event)
        for _, row in ledger.open_rows():
            if row.submitted is not None:
                totals.waiting += 1
            else:
                totals.unresolved += 1
    finally:
        ledger.close()
    return totals


def find_row(wanted: str, table: OpenedTable) -> dict[str, Any]:
    """
    Return what is known of one row: what was sent, by which run, when, what it cost, what came back.

    :param wanted: the value of its key, a JSON object of key columns, a request id, or a fingerprint in hex.
    :raises SegmindConfigError: no such row is known here; says where else to look.
    """
    found = _in_files(wanted, table.manifest) if table.manifest is not None else {}
    found |= _in_ledger_of(table, _marks(found) or {wanted})
    if not found and table.manifest is not None:
        # Last, because a request id or a fingerprint is not a key, and may not even be of the key's type.
        found = _in_databases(wanted, table.manifest)
        found |= _in_ledger_of(table, _marks(found))
    if not found:
        raise SegmindConfigError(_where_to_look(wanted, table))
    if "columns" in found:
        # The output has the key as well.
        found.pop("answer", None)
    if found.get("request_ids"):
        found.pop("request_id", None)
    return found


def _marks(found: Mapping[str, Any]) -> set[str]:
    """Return what identifies a row in the ledger."""
    return {str(found[name]) for name in ("request_id", "fingerprint") if found.get(name)}


def requests_in(folder: StorePath, request_ids: set[str]) -> set[str]:
    """Return which of the given requests are in a ledger."""
    ledger = _opened(folder)
    try:
        return ledger.owned_requests(request_ids)
    finally:
        ledger.close()


def places_of(tables: Sequence[OpenedTable], wanted: str, answer_path: Callable[[bytes], StorePath] | None) -> Places:
    """
    Return where the rows with a key may be: in everything that some manifests name.

    :param wanted: the value of the first key column, or a JSON object of key columns.
    :param answer_path: as in :class:`Places`.
    :raises SegmindConfigError: a manifest names a database that cannot be reached here.
    """
    manifests = [table.manifest for table in tables if table.manifest is not None]
    ledgers = {str(table.ledger): table.ledger for table in tables if table.ledger is not None}
    outputs = {path: manifest for manifest in manifests for path in manifest.outputs}
    files = [path for path in outputs if kind_of(path) is not None]
    return Places(
        ledgers=list(ledgers.values()),
        outputs=[locate(path) for path in files],
        dead_letters=[locate(path) for path in _distinct(one.dead_letters for one in manifests)],
        reports=[locate(path) for path in _distinct([one.report] for one in manifests if one.report)],
        keyed=[
            _rows_in_database(path, columns)
            for path, one in outputs.items()
            if kind_of(path) is None
            for columns in (_columns_of(wanted, one), *_marks_of(wanted))
        ],
        answer_path=answer_path,
    )


def _distinct(lists: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(path for paths in lists for path in paths))


def _columns_of(wanted: str, manifest: Manifest) -> Mapping[str, Any]:
    columns = key_columns(wanted)
    return columns or {next(column for column in manifest.columns if column != ROW_COLUMN): wanted}


def _marks_of(wanted: str) -> Iterator[Mapping[str, Any]]:
    """Yield the columns that have a request id or a fingerprint, if it may be one."""
    if key_columns(wanted) is None:
        yield {"_segmind_request_id": wanted}
        yield {FINGERPRINT_COLUMN: wanted}


def _rows_in_database(address: str, columns: Mapping[str, Any]) -> AnswerRows:
    conn_id, _, name = address.partition(":")
    hook = database_hook(conn_id, "MANIFEST")
    return AnswerRows(
        hook.get_conn,
        dialect=dialect_of(hook.conn_type),
        name=TableName.parse(name, "target_table"),
        place=address,
        key=columns,
    )


def key_columns(wanted: str) -> Mapping[str, Any] | None:
    """
    Return the key columns of a JSON object, None for the plain value of the first one.

    :raises SegmindConfigError: it begins like an object but is not one, or it is empty and so would match every row.
    """
    if not wanted.lstrip().startswith("{"):
        return None
    try:
        given = json.loads(wanted)
    except ValueError as error:
        raise SegmindConfigError(f"--row is not JSON: {error}.") from error
    if not given:
        raise SegmindConfigError("--row is an object without columns: name a column and its value.")
    columns: Mapping[str, Any] = given
    return columns


def _in_files(wanted: str, manifest: Manifest) -> dict[str, Any]:
    """Look a key up in the dead letters and in the output files."""
    for path in manifest.dead_letters:
        for letter in read_letters(locate(path)):
            if is_key(wanted, letter.key):
                known = {name: getattr(letter, name) for name in ("key", "outcome", "reason", "fingerprint", "row")}
                ids = letter.request_ids or (None,)
                return {**known, "request_id": ids[-1], "cost_micros": micros(letter.cost)}
    for path in manifest.outputs:
        if kind_of(path) is None:
            continue
        for row in open_source(locate(path)):
            if is_key(wanted, row):
                return _of_output(row)
    return {}


def _in_databases(wanted: str, manifest: Manifest) -> dict[str, Any]:
    """
    Look a key up in the tables of answers.

    :raises SegmindEnrichmentError: a database cannot be read here.
    """
    for address in manifest.outputs:
        if kind_of(address) is not None:
            continue
        for row in _rows_in_database(address, _columns_of(wanted, manifest)).read():
            return _of_output(row) | {"fingerprint": row.get(FINGERPRINT_COLUMN)}
    return {}


def _of_output(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "columns": {name: value for name, value in row.items() if not name.startswith("_segmind_")},
        "outcome": row.get("_segmind_status"),
        "reason": row.get("_segmind_error"),
        "request_id": row.get("_segmind_request_id"),
        "model": row.get("_segmind_model"),
    }


def is_key(wanted: str, columns: Mapping[str, Any]) -> bool:
    """Return whether a row has a key: a JSON object of columns, or the value of the first column."""
    given = key_columns(wanted)
    if given is not None:
        return all(name in columns and _is_same(columns[name], value) for name, value in given.items())
    first = next((value for name, value in columns.items() if name != ROW_COLUMN), None)
    return first is not None and _is_same(first, wanted)


def _is_same(value: Any, wanted: Any) -> bool:
    """Return whether a value in a file is the one named: each format has its own form of a bool, a number or a time."""
    if value is None or wanted is None:
        return value is wanted
    if str(value) == str(wanted) or plain_text(value) == plain_text(wanted):
        return True
    if isinstance(value, datetime) and isinstance(wanted, str):
        return _moment(wanted) == value
    # Two strings are different keys even if they are the same number, such as "1.1" and "1.10".
    is_number = not (isinstance(value, str) and isinstance(wanted, str))
    return is_number and (number := _number(value)) is not None and number == _number(wanted)


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        return None
    return Decimal(text) if _PLAIN_NUMBER.fullmatch(text := plain_text(value)) else None


def _in_ledger_of(table: OpenedTable, marks: set[str]) -> dict[str, Any]:
    return _in_ledger(marks, table.ledger) if table.ledger is not None and marks else {}


def _in_ledger(marks: set[str], folder: StorePath) -> dict[str, Any]:
    needles = [mark.encode() for mark in marks]
    ledger = _opened(folder)
    try:
        for line in ledger.dump():
            # A ledger can have a million lines, so only those that contain it are decoded.
            if any(needle in line for needle in needles) and marks & set(marks_of(event := from_line(line))):
                return _described(event, ledger, folder)
    finally:
        ledger.close()
    return {}


def _described(event: Event, ledger: Ledger, folder: StorePath) -> dict[str, Any]:
    finished = event if isinstance(event, Finished) else None
    claim = ledger.row_state(event.fingerprint).claim
    run = finished.run if finished else claim.run if claim else None
    ended = finished.at if finished else None
    began = claim.at if claim else None
    if finished is not None and finished.seconds is not None:
        began = finished.at - finished.seconds
    known: dict[str, Any] = {
        "fingerprint": event.fingerprint.hex(),
        "model": finished.model if finished else claim.model if claim else None,
        "run": run,
        "asked_at": began and iso(began),
        "finished_at": ended and iso(ended),
        "attempt": event.attempt,
    }
    if finished is not None:
        known |= {"outcome": str(finished.outcome), "reason": finished.reason, "answer": finished.answer}
        known |= {"request_ids": list(finished.request_ids), "cost_micros": micros(finished.cost)}
        known |= {"tokens": finished.tokens, "billed": finished.billed}
    else:
        known["outcome"] = "in flight"
    if run is not None and began is not None:
        known |= _prompt(folder, run.removesuffix(REUSED), began)
    return known


def _prompt(folder: StorePath, run: str, at: float) -> dict[str, Any]:
    prompt_hash = prompt_hash_of(folder, run=run, at=at)
    return {"prompt_hash": prompt_hash, "prompt": prompt_hash and prompt_of(folder, prompt_hash)}


def _where_to_look(wanted: str, table: OpenedTable) -> str:
    if table.manifest is None:
        return (
            f"No request id and no fingerprint in this ledger is {wanted!r}. A ledger does not know keys: name the "
            "manifest of the run instead, or look up the row's _segmind_request_id in its output."
        )
    return f"No row of {', '.join(table.manifest.outputs)} and no dead letter has the key {wanted!r}."


def _opened(folder: StorePath) -> Ledger:
    ledger = Ledger(folder, run="", writer="reader")
    try:
        ledger.replay()
    except BaseException:
        ledger.close()
        raise
    return ledger


def _add(totals: LedgerTotals, event: Finished) -> None:
    totals.outcomes[str(event.outcome)] += 1
    totals.models[event.model] += 1
    run = totals.runs.setdefault(event.run, LedgerRun())
    run.add(event)
    run.tokens += event.tokens or 0
    run.last_at = max(run.last_at, event.at)
