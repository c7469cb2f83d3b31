"""
The page: a FastAPI application that the API server mounts. It has no outside assets, and no inline script or style.

Every route depends on the core's authorisation, and shows a user the DAGs that this user may read.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qs, quote

import jinja2
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    StreamingResponse,
)
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as RoutingError

from airflow_provider_segmind.compat import create_session, read_as_server
from airflow_provider_segmind.defaults import DEFAULT_CONNECTION, PAGE_PREFIX
from airflow_provider_segmind.enrichment.outcomes import Outcome
from airflow_provider_segmind.enrichment.report.charts import COLOURS, draw_all
from airflow_provider_segmind.enrichment.report.page import key_figures, reason_rows, state_of
from airflow_provider_segmind.hooks.budgets import budget_conn_id
from airflow_provider_segmind.links import table_path
from airflow_provider_segmind.money import format_usd, usd
from airflow_provider_segmind.monitoring.page.access import Viewer, comes_from_the_page, may_open_page, viewer_of
from airflow_provider_segmind.monitoring.page.budgets import COLOURS_OF_WARNINGS, BudgetCache, reason_of
from airflow_provider_segmind.monitoring.page.dead_letters import find, lines, may_read, refusal
from airflow_provider_segmind.monitoring.page.spend import (
    Period,
    SpendCache,
    Stack,
    draw_days,
    spend_lines,
    visible,
)
from airflow_provider_segmind.monitoring.page.tables import line_of, rerun_conf
from airflow_provider_segmind.monitoring.reader import Reader, RequestInFlight, TableRun, TaskRef, with_states
from airflow_provider_segmind.pausing import PAUSE_VARIABLE, pause, pause_reason, resume
from airflow_provider_segmind.wording import counted, duration, moment

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'self'; object-src 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
STATIC = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
TABLE = "/tables/{dag_id}/{run_id}/{task_id}/{map_index}"
REFUSALS = {
    HTTPStatus.UNAUTHORIZED: "Log in to Airflow first.",
    HTTPStatus.FORBIDDEN: "You do not have permission to see or do this. Permissions are those of the DAG in Airflow.",
    HTTPStatus.NOT_FOUND: "There is nothing at this address.",
}
MAX_FORM_BYTES = 4096
REFRESH = 10
"""Seconds after which a view with something in progress is read again."""
BALANCE_LIFETIME = 60.0
"""Seconds for which a balance is not asked for again."""
STATE_LIFETIME = 60.0
MOST_ASKED = 20
"""Requests whose states are asked for at once: each is a call of the account's, which may count towards its limit."""


log = logging.getLogger(__name__)
User = Annotated[Viewer, Depends(viewer_of)]


class TableQuery(NamedTuple):
    """What the address of a run contains: its task instance, and which dead letters to show."""

    task: TaskRef
    outcome: str
    reason: str


def table_query(
    dag_id: str, run_id: str, task_id: str, map_index: int, outcome: str = "", reason: str = ""
) -> TableQuery:
    """Read the address of a run."""
    return TableQuery(TaskRef(dag_id=dag_id, run_id=run_id, task_id=task_id, map_index=map_index), outcome, reason)


AskedTable = Annotated[TableQuery, Depends(table_query)]


class Balances:
    """The balance of each account, asked for at most once a minute by this process."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, str]] = {}

    def read(self, reader: Reader, conn_id: str) -> str:
        """Return the balance of a Connection's account in words. Blocks."""
        at, words = self._known.get(conn_id, (0.0, ""))
        if not words or time.monotonic() - at > BALANCE_LIFETIME:
            try:
                amount = reader.balance(conn_id)
            except Exception as error:  # noqa: BLE001 - Connections, secrets backends and networks fail in any way
                words = f"cannot be read ({type(error).__name__})"
            else:
                words = "not reported for this account" if amount is None else format_usd(amount)
            self._known[conn_id] = (time.monotonic(), words)
        return words


class States:
    """The states of requests as Segmind names them, each asked for at most once a minute by this process."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, str]] = {}
        self._asking = threading.Lock()

    def read(self, requests: Sequence[RequestInFlight]) -> dict[str, str]:
        """
        Return the states by request id, and ask for those of a few requests that are not known. Blocks.

        One thread asks at a time, since a call that is not answered takes minutes; others return what is known.
        """
        if self._asking.acquire(blocking=False):
            try:
                self._ask(requests)
            finally:
                self._asking.release()
        known = self._known
        return {one.request_id: known[one.request_id][1] for one in requests if one.request_id in known}

    def _ask(self, requests: Sequence[RequestInFlight]) -> None:
        oldest = time.monotonic() - STATE_LIFETIME
        ids = {one.request_id for one in requests}
        self._known = {name: known for name, known in self._known.items() if name in ids or known[0] >= oldest}
        due = [one for one in requests if self._known.get(one.request_id, (-math.inf, ""))[0] < oldest]
        silent: set[str | None] = set()
        for one in due[:MOST_ASKED]:
            # After an account did not answer, it is not asked about further requests.
            state = "" if one.connection in silent else _state_of(one)
            self._known[one.request_id] = (time.monotonic(), state)
            if not state:
                silent.add(one.connection)


def _state_of(request: RequestInFlight) -> str:
    """Ask Segmind for the state of a request; empty where it cannot be asked."""
    try:
        (known,) = with_states([request])
    except Exception as error:  # noqa: BLE001 - Connections, secrets backends and networks fail in any way
        log.debug("The state of request %s cannot be read: %s", request.request_id, type(error).__name__)
        return ""
    return known.state or ""


BALANCES, BUDGETS, SPENT, STATES = Balances(), BudgetCache(), SpendCache(), States()


def build_app() -> FastAPI:
    """Return the application."""
    app = FastAPI(title="Segmind", docs_url=None, redoc_url=None, openapi_url=None)
    read_as_server()
    app.middleware("http")(_add_headers)
    app.add_exception_handler(RoutingError, _show_refusal)
    for path, route in (
        ("/", in_flight),
        ("/balance/{connection_id}", balance),
        ("/states", states),
        ("/spend", spend),
        ("/budgets", budgets),
        ("/tables", tables),
        (TABLE, table),
        (f"{TABLE}/dead-letters.jsonl", dead_letters),
        ("/static/{name}", static),
    ):
        app.add_api_route(path, route, dependencies=[Depends(may_open_page)], response_model=None)
    for path, write in (("/pause", pause_spending), ("/resume", resume_spending)):
        needed = [Depends(may_open_page), Depends(comes_from_the_page), Depends(may_pause)]
        app.add_api_route(path, write, methods=["POST"], dependencies=needed, response_model=None)
    return app


def in_flight(request: Request, viewer: User) -> Response:
    """Show the requests that tasks wait for."""
    with create_session() as session:
        requests = Reader(session, may_read).in_flight(dag_ids=viewer.dag_ids())
    connections = {DEFAULT_CONNECTION, *(one.connection for one in requests if one.connection)}
    return show(
        request,
        "in_flight",
        tab="In flight",
        title="In flight",
        refresh=REFRESH,
        requests=requests,
        paused=pause_reason(),
        may_pause=viewer.may_change_variable(PAUSE_VARIABLE),
        accounts=[each for each in sorted(connections) if viewer.may_read_connection(each)],
        now=time.time(),
    )


def may_pause(viewer: User) -> None:
    """Refuse users who may not change the Variable that pauses all spending."""
    if not viewer.may_change_variable(PAUSE_VARIABLE):
        raise HTTPException(HTTPStatus.FORBIDDEN, "Forbidden")


async def pause_spending(request: Request) -> Response:
    """Pause all spending of the deployment."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM_BYTES:
            raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The reason is too long.")
    reason = parse_qs(body.decode(errors="replace")).get("reason", [""])[0]
    await run_in_threadpool(pause, reason)
    return RedirectResponse(f"{_base(request)}/", status_code=HTTPStatus.SEE_OTHER)


def resume_spending(request: Request) -> Response:
    """Allow spending again."""
    resume()
    return RedirectResponse(f"{_base(request)}/", status_code=HTTPStatus.SEE_OTHER)


def balance(connection_id: str, viewer: User) -> Response:
    """Return the balance of an account as plain text."""
    if not viewer.may_read_connection(connection_id):
        raise HTTPException(HTTPStatus.FORBIDDEN, "Forbidden")
    with create_session() as session:
        return PlainTextResponse(BALANCES.read(Reader(session, may_read), connection_id))


def states(viewer: User) -> Response:
    """Return the known states of the requests in flight by their ids, as JSON."""
    with create_session() as session:
        requests = Reader(session, may_read).in_flight(dag_ids=viewer.dag_ids())
    return JSONResponse(STATES.read(requests))


def spend(request: Request, viewer: User, by: str = "dag", since: str = "", until: str = "") -> Response:
    """Show what was spent by day and by DAG or model; the days are in UTC and both included."""
    stack: Stack = "model" if by == "model" else "dag"
    today = datetime.now(UTC).date()
    period = Period.of(since, until, today)
    values: dict[str, Any] = {"view": None, "lines": [], "trouble": ""}
    try:
        with create_session() as session:
            everything = SPENT.read(Reader(session, may_read), period)
            linked = viewer.dag_ids()
            view = visible(everything, None if viewer.may_read_all(session, linked) else linked, stack)
    except Exception as error:
        log.warning("The spend data cannot be read", exc_info=True)
        values["trouble"] = reason_of(error)
    else:
        lines = spend_lines(view)
        values |= {"view": view, "lines": lines, "chart": draw_days(view, lines, period), "linked": linked}
        values["excluded"] = view.total.requests < everything.total.requests
    last_days = {days: today - timedelta(days=days - 1) for days in (7, 30, 90)}
    return show(
        request,
        "spend",
        tab="Spend",
        title="Spend",
        period=period,
        by=stack,
        today=today,
        last_days=last_days,
        **values,
    )


def budgets(request: Request, viewer: User) -> Response:
    """Show what is left of the budgets of Connections that the user may read, and of named ones."""
    with create_session() as session:
        connections = Reader(session, may_read).connections()
    conn_ids = [each for each in sorted({DEFAULT_CONNECTION, *connections}) if viewer.may_read_connection(each)]
    store = budget_conn_id() or DEFAULT_CONNECTION
    lines, flights, troubles = BUDGETS.read(conn_ids, named=viewer.may_read_connection(store))
    return show(
        request,
        "budgets",
        tab="Budgets",
        title="Budgets",
        refresh=REFRESH,
        lines=lines,
        flights=flights,
        troubles=troubles,
        colours=COLOURS_OF_WARNINGS,
        now=time.time(),
    )


def tables(request: Request, viewer: User) -> Response:
    """Show the latest runs of enrichment."""
    with create_session() as session:
        lines = [line_of(run) for run in Reader(session, may_read).table_runs(dag_ids=viewer.dag_ids())]
    refresh = REFRESH if any(line.running for line in lines) else None
    return show(request, "tables", tab="Tables", title="Tables", refresh=refresh, lines=lines, now=time.time())


def table(request: Request, asked: AskedTable, viewer: User) -> Response:
    """Show one run: figures and charts from its manifest, and its dead letters to those who may read its XComs."""
    with create_session() as session:
        reader = Reader(session, may_read)
        run = _run_of(reader, asked.task)
        line = line_of(run)
        manifest = None if line.running else run.manifest
        values: dict[str, Any] = {"sees_answers": viewer.may_read_answers(asked.task.dag_id)}
        if manifest is not None:
            values |= {"verdict": state_of(manifest), "figures": list(key_figures(manifest))}
            values |= {"charts": draw_all(manifest)}
            if values["sees_answers"]:
                values |= {"reasons": reason_rows(manifest), "conf": rerun_conf(manifest)}
                values |= {"letters": find(reader, manifest, asked.outcome or None, asked.reason or None)}
    return show(
        request,
        "table",
        tab="Tables",
        title=run.task.name,
        refresh=REFRESH if line.running else None,
        run=run,
        line=line,
        progress=run.progress or {},
        manifest=manifest,
        colours=COLOURS,
        outcomes=[str(each) for each in Outcome if each is not Outcome.SUCCESS],
        outcome=asked.outcome,
        reason=asked.reason,
        **values,
    )


def dead_letters(asked: AskedTable, viewer: User) -> Response:
    """Return the dead letters of a run as JSONL."""
    if not viewer.may_read_answers(asked.task.dag_id):
        raise HTTPException(HTTPStatus.FORBIDDEN, "Forbidden")
    with create_session() as session:
        reader = Reader(session, may_read)
        run = _run_of(reader, asked.task)
    if run.manifest is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "The run left no manifest in Airflow.")
    if why := refusal(run.manifest):
        raise HTTPException(HTTPStatus.CONFLICT, why)
    found = lines(reader, run.manifest, asked.outcome or None, asked.reason or None)
    attached = {"Content-Disposition": 'attachment; filename="dead_letters.jsonl"'}
    return StreamingResponse(found, media_type="application/jsonl", headers=attached)


def _run_of(reader: Reader, ref: TaskRef) -> TableRun:
    """Return a run of one of our operators for tables; its operator is checked in the database."""
    run = reader.table_run(ref)
    if run is None:
        raise HTTPException(HTTPStatus.NOT_FOUND, "Not Found")
    return run


def static(name: str) -> Response:
    """Return the style sheet, the script or the icon."""
    if name not in STATIC:
        raise HTTPException(HTTPStatus.NOT_FOUND, "Not Found")
    return FileResponse(Path(__file__).parent / "static" / name, media_type=STATIC[name])


def show(request: Request, template: str, *, status_code: int = 200, **values: Any) -> HTMLResponse:
    """Render a template; everything in it is escaped."""
    base = _base(request)
    values = {"refresh": None, "tab": "", "base": base, "ui": base.removesuffix(PAGE_PREFIX), **values}
    return HTMLResponse(TEMPLATES.get_template(f"{template}.html.jinja2").render(values), status_code=status_code)


def _base(request: Request) -> str:
    """Return where the page is mounted, behind any prefix of ``[api] base_url``."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def _ui_address(task: TaskRef, ui: str) -> str:
    dag, run, name = (quote(part, safe="") for part in (task.dag_id, task.run_id, task.task_id))
    mapped = f"/mapped/{task.map_index}" if task.map_index >= 0 else ""
    return f"{ui}/dags/{dag}/runs/{run}/tasks/{name}{mapped}"


def _table_address(task: TaskRef, base: str) -> str:
    return f"{base}/{table_path(task.dag_id, task.run_id, task.task_id, task.map_index)}"


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _ago(moment: float, now: float) -> str:
    return f"{duration(now - moment)} ago"


TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader(__package__, "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters.update(
    usd=usd,
    format_usd=format_usd,
    count=_count,
    counted=counted,
    duration=duration,
    moment=moment,
    ago=_ago,
    ui_address=_ui_address,
    table_address=_table_address,
)


async def _add_headers(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    response = await call_next(request)
    response.headers.update(HEADERS)
    return response


async def _show_refusal(request: Request, refusal: Exception) -> Response:
    """Show an HTTP error as a page; who opens one without being logged in is sent to the login."""
    code = getattr(refusal, "status_code", HTTPStatus.INTERNAL_SERVER_ERROR)
    if code == HTTPStatus.UNAUTHORIZED and "text/html" in request.headers.get("accept", ""):
        here = quote(f"{request.url.path}?{request.url.query}".rstrip("?"), safe="")
        login = f"{_base(request).removesuffix(PAGE_PREFIX)}/api/v2/auth/login?next={here}"
        return RedirectResponse(login, status_code=HTTPStatus.SEE_OTHER)
    words = REFUSALS.get(code, str(getattr(refusal, "detail", "")))
    return show(request, "message", status_code=code, title=HTTPStatus(code).phrase, words=words)
