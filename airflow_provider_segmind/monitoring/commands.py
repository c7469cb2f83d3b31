"""What each command does: asks the reader, prints a table or JSON, and returns an exit code."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from airflow_provider_segmind.answer_cache import AnswerCache
from airflow_provider_segmind.budget.usage import WindowUse
from airflow_provider_segmind.client.models import RequestRecord
from airflow_provider_segmind.client.request_history import HistoryPages, row_times
from airflow_provider_segmind.client.submission import iso, read_timestamp
from airflow_provider_segmind.compat import AirflowException, airflow_version, conf, create_session, read_as_server
from airflow_provider_segmind.defaults import DEFAULT_CONNECTION
from airflow_provider_segmind.enrichment.forget import Forgetting, Places, rows_unchanged_since
from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.progress_file import all_progress
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindError, with_help
from airflow_provider_segmind.execution.answers import locate_answers
from airflow_provider_segmind.execution.enrichment import writer_timeout
from airflow_provider_segmind.hooks.budgets import budget_store
from airflow_provider_segmind.masking import mask_known
from airflow_provider_segmind.money import exact_micros, usd
from airflow_provider_segmind.monitoring.budgets import (
    InFlight,
    budget_name,
    budgets_of_configuration,
    budgets_of_connection,
    period,
    warning,
)
from airflow_provider_segmind.monitoring.reader import CoreHook, Reader, RequestInFlight, TaskRef, with_states
from airflow_provider_segmind.monitoring.spending import DIMENSIONS, Dimension, SpendGroup, SpendView
from airflow_provider_segmind.monitoring.tables import (
    LedgerTotals,
    OpenedTable,
    find_row,
    is_key,
    ledger_totals,
    open_table,
    places_of,
    requests_in,
)
from airflow_provider_segmind.monitoring.terminal import (
    complain,
    print_facts,
    print_json,
    print_table,
    say,
)
from airflow_provider_segmind.pausing import PAUSE_VARIABLE, pause, resume
from airflow_provider_segmind.spend.reconcile import reconcile
from airflow_provider_segmind.spend.store import configured_store
from airflow_provider_segmind.stores import locate
from airflow_provider_segmind.wording import counted, duration

DONE, PROBLEM, WRONG_ARGUMENTS, NO_DATABASE = 0, 1, 2, 3
RECONCILED = 7 * 86_400.0
"""Seconds of the history with which the spend record is completed unless ``--since`` says otherwise."""
_UNITS = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class _WrongArgumentsError(SegmindConfigError):
    """The arguments of the command contradict each other, or one cannot be read."""


class _NoDatabaseError(Exception):
    """The metadata database cannot be reached from this process."""


def run(command: Callable[[Namespace], int], values: Namespace) -> int:
    """Run a command and return its exit code; what went wrong is one sentence on the standard error."""
    # Airflow writes its log lines to the standard output, from which a script reads JSON.
    logging.disable(logging.CRITICAL)
    read_as_server()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = command(values)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has closed it; Python would report an error when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except _NoDatabaseError as error:
        complain(
            f"Airflow's metadata database cannot be read from here ({error}). Run this where the scheduler or the API "
            "server runs, with the same configuration; `airflow db check` tests the access."
        )
        return NO_DATABASE
    except _WrongArgumentsError as error:
        complain(str(error))
        return WRONG_ARGUMENTS
    except SegmindError as error:
        complain(str(with_help(error)))
        return PROBLEM
    except (AirflowException, OSError, ImportError, ValueError) as error:
        complain(mask_known(f"{type(error).__name__}: {error}"))
        return PROBLEM
    finally:
        logging.disable(logging.NOTSET)
    return code


def check(values: Namespace) -> int:
    """Call each account once, and say which stores are in use and whether spending is paused."""
    with _reader() as reader:
        conn_ids = _accounts(reader, values.conn_id)
        paused = reader.paused()
    accounts = [_account(conn_id) for conn_id in conn_ids]
    stores, stores_work = _stores(conn_ids)
    if values.output == "json":
        print_json({"connections": accounts, "stores": stores, "paused": paused})
    else:
        titles = ("connection", "works", "gateway", "balance", "calls a minute")
        print_table(titles, [_account_cells(one) for one in accounts], right=titles[3:])
        for one in accounts:
            if not one["works"] or one["balance_micros"] is None:
                say(f"{one['connection']}: {one['message']}")
        print_facts({**stores, "spending": "allowed" if paused is None else f"PAUSED: {paused}"})
    return DONE if stores_work and all(one["works"] for one in accounts) else PROBLEM


def list_requests(values: Namespace) -> int:
    """List the requests in flight, or the request history."""
    if values.at_segmind and values.dag:
        raise _WrongArgumentsError(
            "--dag selects tasks, but Segmind's history also has requests of no known task: use --at-segmind without "
            "it. The column DAG shows what is known."
        )
    with _reader() as reader:
        if values.at_segmind:
            return _list_history(values, reader)
        found = reader.in_flight(dag_ids=values.dag, model=values.model)
    found = [one for one in found if values.conn_id in (None, one.connection)]
    if values.poll or values.state:
        found = [one for one in with_states(found) if values.state in (None, one.state)]
    if values.output == "json":
        print_json([_request_json(one) for one in found])
        return DONE
    now = time.time()
    titles = ("request", "DAG", "task", "run", "model", "state", "age", "expires in")
    print_table(titles, [(one.request_id, *_request_cells(one, now)) for one in found], right=titles[-2:])
    more = sum(one.more for one in found)
    say(f"{counted(len(found) + more, 'request')} in flight." if found else "No task is known to wait for a request.")
    if more:
        say(f"{more:,} of them, of running tables, are not listed.")
    return DONE


def show_spend(values: Namespace) -> int:
    """Show what was spent."""
    by, since = _dimensions(values.by), _since(values.since)
    if values.conn_id and not values.reconcile:
        raise _WrongArgumentsError(
            "--conn-id selects the history for --reconcile; without --reconcile, use --dag or --by."
        )
    with _reader() as reader:
        added = _reconcile(reader, since, values.conn_id) if values.reconcile else []
        view = reader.spend(since=since, by=by, dag_ids=values.dag)
    code = PROBLEM if any("error" in one for one in added) else DONE
    if values.output == "json":
        print_json({**_spend_json(view, by), **({"reconciled": added} if values.reconcile else {})})
        return code
    for one in added:
        if "error" in one:
            complain(f"{one['connection']}: its history could not be read completely: {one['error']}")
            continue
        say(
            f"{one['connection']}: {counted(one['added'], 'request')} added to the record from Segmind's history, "
            f"{counted(one['priced'], 'cost')} filled in, {usd(one['cost_micros'])} in total."
        )
    titles = (*(name.upper() if name == "dag" else name for name in by), "requests", "USD", "without a cost", "tokens")
    rows = [(*(part or "-" for part in group.key), *_spend_cells(group)) for group in view.groups]
    total = ("total", *[""] * (len(by) - 1), *_spend_cells(view.total))
    print_table(titles, [*rows, total], right=titles[len(by) :])
    say(f"Since {iso(view.since)}, as billed. {view.note}" if view.since else f"Nothing was spent. {view.note}")
    return code


def show_budgets(values: Namespace) -> int:
    """Show what is spent, reserved and left of the budgets, and the requests that count against a limit in flight."""
    with _reader() as reader:
        conn_ids = _accounts(reader, values.conn_id)
    now = time.time()
    every = [budgets_of_connection(conn_id, now) for conn_id in conn_ids]
    every += [] if values.conn_id else [budgets_of_configuration(now)]
    uses = [use for one in every for use in one.windows]
    flights = [one.in_flight for one in every if one.in_flight is not None]
    if values.output == "json":
        print_json(
            {"windows": [_window_json(use) for use in uses], "in_flight": [_flight_json(one) for one in flights]}
        )
        return DONE
    titles = ("budget", "window", "limit", "spent", "reserved", "left", "resets in", "warning")
    print_table(titles, [_window_cells(use, now) for use in uses], right=titles[2:7])
    if not uses:
        say("No budget is set: see how-to/budgets in the documentation.")
    for one in flights:
        say(f"{one.connection}: {one.number:,} of {one.most:,} paid requests in flight.")
    return DONE


def _flight_json(one: InFlight) -> dict[str, Any]:
    return {"connection": one.connection, "in_flight": one.number, "max_paid_in_flight": one.most}


def _window_json(use: WindowUse) -> dict[str, Any]:
    amounts = {"limit": use.window.limit, "spent": use.spent, "reserved": use.reserved, "left": use.left}
    named = {"budget": use.window.budget, "window": period(use)}
    return {
        **named,
        **{f"{name}_micros": amount for name, amount in amounts.items()},
        "resets_at": iso(use.window.resets_at),
    }


def _window_cells(use: WindowUse, now: float) -> tuple[str | None, ...]:
    window = use.window
    amounts = (_cost(round(amount)) for amount in (window.limit, use.spent, use.reserved, use.left))
    return (budget_name(use), period(use), *amounts, duration(window.resets_at - now), warning(use).text)


def list_dead_letters(values: Namespace) -> int:
    """Print dead letters as JSON lines."""
    manifest = open_table(values.manifest).manifest
    if manifest is None:
        raise SegmindConfigError(f"{values.manifest!r} is a ledger; dead letters are listed in a manifest.")
    for letter in Reader.dead_letters(manifest, values.outcome, values.reason, values.limit):
        print_json(asdict(letter), indent=None)
    return DONE


def show_table(values: Namespace) -> int:
    """Show a table, or one of its rows."""
    table = open_table(values.target, values.ledger)
    if values.row is not None:
        row = find_row(values.row, table)
        _print_facts(row, values.output)
        return DONE
    facts = _manifest_facts(table.manifest) if table.manifest is not None else {}
    if table.ledger is not None:
        facts |= _ledger_facts(table, table.ledger)
    _print_facts(facts, values.output)
    return DONE


def forget_answers(values: Namespace) -> int:
    """Remove answers by age, or every trace of some rows of a table."""
    if bool(values.older_than) == bool(values.row) or (values.row and not values.targets):
        raise _WrongArgumentsError("Give either --older-than, or manifests (or a ledger) and --row.")
    if values.older_than and values.targets:
        return _forget_old_rows(values)
    path = values.answers_path or conf.get("segmind", "answers_path", fallback="")
    answers = AnswerCache(locate_answers(path)) if path else None
    return _forget_old(values, answers) if values.older_than else _forget_rows(values, answers)


def _forget_old(values: Namespace, answers: AnswerCache | None) -> int:
    if answers is None:
        raise SegmindConfigError("There is no answer cache: give --answers-path, or set [segmind] answers_path.")
    before = _since(values.older_than, "--older-than") or 0.0

    def old() -> tuple[list[Any], int]:
        found = [(file, at is None or at < before) for file, at in answers.all()]
        return [file for file, is_old in found if is_old], len(found)

    found, total = old()
    for file in found if values.yes else ():
        file.unlink(missing_ok=True)
    left = len(old()[0]) if values.yes else len(found)
    _print_forgotten(
        values,
        [{"what": "answer", "place": answers.name, "count": len(found)}] if found else [],
        [{"what": "answer", "place": answers.name, "count": left}] if values.yes and left else [],
        f"{counted(total, 'answer')} in the answer cache, {len(found)} of them older than {values.older_than} "
        "or damaged.",
    )
    return PROBLEM if values.yes and left else DONE


def _forget_old_rows(values: Namespace) -> int:
    before = _since(values.older_than, "--older-than") or 0.0
    ledgers = [table.ledger for table in (open_table(target, values.ledger) for target in values.targets)]
    places = Places(ledgers=[ledger for ledger in dict.fromkeys(ledgers) if ledger is not None])

    def rows() -> Forgetting:
        old = [rows_unchanged_since(ledger, before) for ledger in places.ledgers]
        return Forgetting(places, lambda _: False, given=frozenset().union(*old))

    wanted = rows()
    found = [asdict(trace) for trace in wanted.search()]
    left: list[dict[str, Any]] = []
    if values.yes and found:
        wanted.remove(writer_timeout=writer_timeout())
        left = [asdict(trace) for trace in wanted.search()]
    note = f"{counted(len(wanted.marks.fingerprints), 'distinct row')} without an event since {iso(before)}."
    _print_forgotten(
        values, found, left, f"{note} If one of them is sent again, it is paid for again." if found else note
    )
    return PROBLEM if left else DONE


def _forget_rows(values: Namespace, answers: AnswerCache | None) -> int:
    tables = [open_table(target, values.ledger) for target in values.targets]
    places = places_of(tables, values.row, None if answers is None else answers.path)
    is_wanted = partial(is_key, values.row)
    rows = Forgetting(places, is_wanted, given=frozenset({values.row}))
    found = [asdict(trace) for trace in rows.search()]
    left: list[dict[str, Any]] = []
    if values.yes and found:
        rows.remove(writer_timeout=writer_timeout())
        left = [asdict(trace) for trace in rows.search()]
    unsearched = "" if answers else " No answer cache was searched: there is no --answers-path."
    _print_forgotten(values, found, left, ("" if found else "No such row was found.") + unsearched)
    return PROBLEM if left or not found else DONE


def _print_forgotten(values: Namespace, found: list[dict[str, Any]], left: list[dict[str, Any]], note: str) -> None:
    """Print what was found, and if it was removed what a search after that still finds."""
    if values.output == "json":
        print_json({"found": found, "removed": values.yes and bool(found), "left": left if values.yes else None})
        return
    titles = ("what", "count", "where")
    print_table(titles, [(one["what"], str(one["count"]), one["place"]) for one in found], right=("count",))
    if note.strip():
        say(note.strip())
    if not values.yes or not found:
        say("Nothing was changed; --yes removes it." if found else "Nothing was changed.")
        return
    for one in left:
        say(f"STILL THERE: {one['what']}, {one['count']} in {one['place']}")
    say(f"Removed. A search for it now finds {sum(one['count'] for one in left)}.")


def stop_spending(values: Namespace) -> int:
    """Pause every submit of the deployment."""
    with _reader():
        reason = pause(values.reason or "")
    say(f"Spending is paused: {reason}. Requests that were submitted continue and are billed; 'resume' ends the pause.")
    return DONE


def allow_spending(values: Namespace) -> int:
    """End the pause."""
    with _reader() as reader:
        paused = reader.paused()
        resume()
        still = reader.paused()
    if still is not None:
        complain(
            f"Spending is still paused: {still}. The Variable {PAUSE_VARIABLE!r} of the database is deleted, but the "
            f"environment variable AIRFLOW_VAR_{PAUSE_VARIABLE.upper()} or a secrets backend has it as well: remove it "
            "there."
        )
        return PROBLEM
    say("Spending was not paused." if paused is None else f"Spending is allowed again; it was paused: {paused}.")
    return DONE


@contextmanager
def _reader() -> Iterator[Reader]:
    try:
        with create_session() as session:
            yield Reader(session)
    except SQLAlchemyError as error:
        # Its text may contain the address of the database with a password.
        raise _NoDatabaseError(type(error).__name__) from error


def _account(conn_id: str) -> dict[str, Any]:
    found: dict[str, Any] = {"connection": conn_id, "works": False, "gateway": None, "balance_micros": None}
    found |= {"requests_per_minute": None, "message": ""}
    hook = CoreHook(conn_id)
    try:
        config = hook.config
        found |= {"gateway": config.endpoints.gateway, "requests_per_minute": config.requests_per_minute}
        found["works"], found["message"] = hook.test_connection()
        if found["works"]:
            found["balance_micros"] = exact_micros(hook.get_balance())
    except (SegmindError, AirflowException) as error:
        found |= {"works": False, "message": mask_known(str(error))}
    finally:
        hook.close()
    return found


def _account_cells(one: Mapping[str, Any]) -> tuple[str | None, ...]:
    limit = one["requests_per_minute"]
    learned = "learned" if one["works"] else None
    return (
        *(one["connection"], "yes" if one["works"] else "NO", one["gateway"], _cost(one["balance_micros"])),
        learned if limit is None else f"{limit:g}",
    )


def _stores(conn_ids: Sequence[str]) -> tuple[dict[str, str], bool]:
    """
    Return in words where things are kept, and whether the configuration is right.

    :param conn_ids: the Connections whose budgets need a store.
    """
    names = ("state_path", "output_path", "answers_path")
    state, output, answers = (conf.get("segmind", name, fallback="") for name in names)
    everywhere = "XCom, unless a task or connection has an output_path"
    own = "Airflow's task state store" if airflow_version() >= (3, 3) else "Airflow Variables"
    works = True
    try:
        store = configured_store()
        spend = "none; set [segmind] spend_path or spend_conn_id" if store is None else store.name
    except (SegmindError, AirflowException) as error:
        spend, works = str(error), False
    try:
        found = budget_store()
        budgets = "none; set [segmind] spend_conn_id or budget_redis_url" if found is None else found.name
    except (SegmindError, AirflowException) as error:
        budgets = str(error)
        if any(map(_has_budgets, conn_ids)):
            works = False
        else:
            budgets = f"none is set, and none could be kept: {budgets}"
    return {
        "records_of_requests": f"{state} ([segmind] state_path)" if state else own,
        "large_results": f"{output} ([segmind] output_path)" if output else everywhere,
        "answer_cache": f"{answers} ([segmind] answers_path)" if answers else "none, unless a task names one",
        "spend_record": spend,
        "budgets": budgets,
    }, works


def _has_budgets(conn_id: str) -> bool:
    """Return whether anything limits a Connection that exists, or ``[segmind] budgets`` names a budget."""
    hook = CoreHook(conn_id)
    try:
        return hook.budget_settings().store is not None
    except SegmindError:
        # It has no store, or a limit cannot be read.
        return True
    except AirflowException:
        # A Connection that is missing is reported as such.
        return bool(conf.get("segmind", "budgets", fallback=""))
    finally:
        hook.close()


def _request_cells(one: RequestInFlight, now: float) -> tuple[str | None, ...]:
    age = None if one.submitted_at is None else duration(now - one.submitted_at)
    left = None if one.expires_at is None else duration(one.expires_at - now)
    expired = one.expires_at is not None and one.expires_at <= now
    return (*_task_cells(one.task), one.model, one.state, age, "expired" if expired else left)


def _task_cells(task: TaskRef | None) -> tuple[str | None, ...]:
    return (None, None, None) if task is None else (task.dag_id, task.name, task.run_id)


def _request_json(one: RequestInFlight) -> dict[str, Any]:
    times = {"submitted_at": one.submitted_at, "expires_at": one.expires_at}
    return {**asdict(one), **{name: at and iso(at) for name, at in times.items()}}


def _list_history(values: Namespace, reader: Reader) -> int:
    """List Segmind's request history, and mark what no task is known to have submitted."""
    found = [(conn_id, row) for conn_id in _accounts(reader, values.conn_id) for row in _history(conn_id, values)]
    oldest = min((at for _, row in found for at in row_times(row)), default=time.time())
    known = reader.known_requests(oldest - _UNITS["d"]) if found else {}
    known |= _known_to_ledgers({row.request_id for _, row in found} - known.keys(), reader)
    rows: list[dict[str, Any]] = [
        {
            "request_id": row.request_id,
            "known": row.request_id in known,
            "task": task and asdict(task),
            "connection": conn_id,
            "model": row.model_name,
            "state": row.model_status,
            "at": next((iso(at) for at in row_times(row)), None),
            "cost_micros": exact_micros(row.cost),
        }
        for conn_id, row in found
        for task in [known.get(row.request_id)]
    ]
    if values.output == "json":
        print_json(rows)
        return DONE
    titles = ("request", "known", "DAG", "task", "run", "model", "state", "at", "USD")
    cells = [
        (
            *(one["request_id"], "yes" if one["known"] else "NO", *_task_cells(known.get(one["request_id"]))),
            *(one["model"], one["state"], one["at"], _cost(one["cost_micros"])),
        )
        for one in rows
    ]
    print_table(titles, cells, right=titles[-1:])
    unknown = sum(not one["known"] for one in rows)
    say(
        f"{counted(len(rows), 'request')}, {unknown} of them unknown to this deployment: to its tasks, its spend "
        "record, and the ledgers of its latest tables that can be read here."
    )
    return DONE


def _known_to_ledgers(request_ids: set[str], reader: Reader) -> dict[str, TaskRef | None]:
    """Return which of the given requests are in ledgers of the latest tables; which task sent them is not looked up."""
    found: dict[str, TaskRef | None] = {}
    for address in dict.fromkeys(run.ledger for run in reader.table_runs() if run.ledger) if request_ids else ():
        try:
            found |= dict.fromkeys(requests_in(locate(address), request_ids))
        except (SegmindError, AirflowException, OSError, ImportError, ValueError):
            # It may be on another machine.
            continue
    return found


def _history(conn_id: str, values: Namespace) -> list[RequestRecord]:
    found: list[RequestRecord] = []
    pages = HistoryPages(model=values.model or None, status=values.state or None)
    hook = CoreHook(conn_id)
    try:
        for filters in pages:
            found += pages.take(hook.list_request_records(**filters))
            if len(found) >= values.limit:
                break
    finally:
        hook.close()
    if len(found) < values.limit and not pages.complete:
        complain(f"{conn_id}: Segmind's request history could not be read to its end; older requests are not listed.")
    # A request with several outputs has several rows.
    return list({row.request_id: row for row in found}.values())[: values.limit]


def _manifest_facts(manifest: Manifest) -> dict[str, Any]:
    outcomes = {name: count for name, count in manifest.outcomes.items() if count}
    return {
        "run": manifest.run_id,
        "model": manifest.model,
        "shard": f"{manifest.shard_index} of {manifest.shard_count}" if manifest.shard_count > 1 else None,
        "rows_read": manifest.rows_read,
        "outcomes": outcomes,
        "reasons": manifest.reasons,
        "stopped": manifest.stopped,
        "distinct_rows": manifest.distinct_rows,
        "from_the_ledger": manifest.cache_hits - manifest.reused,
        "reused": manifest.reused or None,
        "requests": manifest.requests,
        "calls": manifest.calls,
        "cost_micros": exact_micros(manifest.cost),
        "without_a_cost": manifest.unpriced or None,
        "tokens": manifest.tokens,
        "seconds": manifest.seconds,
        "prompt_hash": manifest.prompt_hash or None,
        "output": manifest.outputs,
        "dead_letters": manifest.dead_letters,
        "report": manifest.report,
    }


def _ledger_facts(table: OpenedTable, ledger: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {"ledger": str(ledger)}
    running = all_progress(ledger)
    if table.manifest is not None:
        running = [one for one in running if one.get("run") == table.manifest.run_id]
    else:
        facts |= _totals_facts(ledger_totals(ledger))
    if running:
        facts["progress"] = [_progress_facts(one) for one in running]
    return facts


def _totals_facts(totals: LedgerTotals) -> dict[str, Any]:
    runs = sorted(totals.runs.items(), key=lambda pair: pair[1].last_at, reverse=True)
    return {
        "distinct_rows": sum(totals.outcomes.values()) + totals.waiting + totals.unresolved,
        "outcomes": dict(totals.outcomes.most_common()),
        "waiting_for_an_answer": totals.waiting or None,
        "unknown_whether_sent": totals.unresolved or None,
        "models": dict(totals.models.most_common()),
        "cost_micros": exact_micros(sum(each.cost for each in totals.runs.values())),
        "runs": [
            {
                "run": name,
                "last_outcome": iso(each.last_at),
                "distinct_rows": each.rows,
                "cost_micros": exact_micros(each.cost),
                "without_a_cost": each.unpriced or None,
                "tokens": each.tokens,
            }
            for name, each in runs
        ],
    }


def _progress_facts(values: Mapping[str, Any]) -> dict[str, Any]:
    at = values.get("at")
    shown = {name: values.get(name) for name in ("run", "rows_done", "rows_total", "in_flight", "outcomes", "reasons")}
    shown |= {"cost_micros": exact_micros(values.get("cost")), "eta_seconds": values.get("eta")}
    return {**shown, "at": at and iso(at), "age_seconds": at and round(time.time() - at)}


def _print_facts(facts: dict[str, Any], output: str) -> None:
    if output == "json":
        print_json(facts)
    else:
        print_facts({name: value for name, value in _in_dollars(facts).items() if value not in (None, "", [], {})})


def _in_dollars(facts: Any) -> Any:
    """Return facts for people: amounts of micro-dollars as USD."""
    if isinstance(facts, list):
        return [_in_dollars(each) for each in facts]
    if not isinstance(facts, dict):
        return facts
    return {
        "cost" if name == "cost_micros" else name: _cost(value) if name == "cost_micros" else _in_dollars(value)
        for name, value in facts.items()
    }


def _spend_cells(group: SpendGroup) -> tuple[str, ...]:
    unpriced = str(group.unpriced) if group.unpriced else "-"
    return str(group.requests), usd(group.cost_micros), unpriced, str(group.tokens) if group.tokens else "-"


def _spend_json(view: SpendView, by: Sequence[Dimension]) -> dict[str, Any]:
    def group(one: SpendGroup) -> dict[str, Any]:
        values = asdict(one)
        return {**dict(zip(by, values.pop("key"), strict=False)), **values}

    since = view.since and iso(view.since)
    groups = [group(one) for one in view.groups]
    return {"groups": groups, "total": group(view.total), "source": view.source, "since": since, "note": view.note}


def _reconcile(reader: Reader, since: float | None, conn_ids: Sequence[str] | None) -> list[dict[str, Any]]:
    """Complete the spend record for each account, and return what was added, or the error."""
    store = configured_store()
    if store is None:
        raise SegmindConfigError(
            "There is no spend record to complete: set [segmind] spend_path or spend_conn_id. Without one Segmind's "
            "history is listed by 'requests --at-segmind'."
        )
    added: list[dict[str, Any]] = []
    now = time.time()
    for conn_id in dict.fromkeys(conn_ids or _accounts(reader)):
        hook = CoreHook(conn_id)
        try:
            done = reconcile(store, hook, now - RECONCILED if since is None else since, connection=conn_id, now=now)
        except (SegmindError, AirflowException) as error:
            # An error of one account does not stop the others.
            added.append({"connection": conn_id, "error": mask_known(str(error))})
            continue
        finally:
            hook.close()
        figures = {"added": done.added, "priced": done.priced, "cost_micros": round(done.cost_micros, 6)}
        added.append({"connection": conn_id, **figures})
    return added


def _accounts(reader: Reader, conn_id: str | None = None) -> list[str]:
    """Return the Connections to use: the one that was named, else all of the database, else the default."""
    return [conn_id] if conn_id else reader.connections() or [DEFAULT_CONNECTION]


def _dimensions(text: str) -> tuple[Dimension, ...]:
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in DIMENSIONS]:
        raise _WrongArgumentsError(f"--by is {', '.join(unknown)}; it must be one or more of {', '.join(DIMENSIONS)}.")
    return tuple(dimension for name in names for dimension in DIMENSIONS if dimension == name)


def _since(text: str | None, argument: str = "--since") -> float | None:
    """Read the beginning of a time: ISO 8601, epoch seconds, or a span such as ``7d``."""
    if text is None:
        return None
    if match := re.fullmatch(r"(\d+)([mhdw])", text):
        return time.time() - int(match[1]) * _UNITS[match[2]]
    if text == "today":
        return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    try:
        return read_timestamp(float(text) if re.fullmatch(r"\d{9,}(\.\d+)?", text) else text, argument)
    except SegmindConfigError:
        raise _WrongArgumentsError(
            f"{argument} is {text!r}; it must be ISO 8601, epoch seconds, today, or a span such as 12h, 7d or 4w."
        ) from None


def _cost(amount: float | None) -> str | None:
    return None if amount is None else usd(amount)
