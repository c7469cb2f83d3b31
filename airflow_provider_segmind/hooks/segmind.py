"""The hook: a Segmind client from an Airflow Connection."""

from __future__ import annotations

import base64
import logging
import mimetypes
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from airflow_provider_segmind.client.client import AsyncSegmindClient, ClientConfig, SegmindClient
from airflow_provider_segmind.client.models import (
    Credits,
    ModelInfo,
    RecordPage,
    RequestRecord,
    RequestResult,
    RequestState,
    SubmittedRequest,
    SyncResult,
    schema_of_parameters,
)
from airflow_provider_segmind.client.retry import ONE_ATTEMPT
from airflow_provider_segmind.compat import (
    BaseHook,
    Connection,
    get_async_connection,
    get_async_extra_dejson,
    mask_secret,
    mask_secrets_async,
)
from airflow_provider_segmind.defaults import DEFAULT_CONNECTION, as_seconds
from airflow_provider_segmind.exceptions import (
    SegmindAPIError,
    SegmindAuthenticationError,
    SegmindConfigError,
    SegmindError,
    SegmindRequestFailedError,
    adds_help,
    shorten,
    with_help,
)
from airflow_provider_segmind.get_provider_info import CONNECTION_FIELDS, FIELD_BEHAVIOUR
from airflow_provider_segmind.hooks.connection import check_extra, client_config, output_folder
from airflow_provider_segmind.masking import forms, mask_known
from airflow_provider_segmind.money import format_usd
from airflow_provider_segmind.pausing import check_not_paused

if TYPE_CHECKING:
    from airflow_provider_segmind.budget.guard import BudgetGuard, BudgetSettings
    from airflow_provider_segmind.budget.store import BudgetStore
    from airflow_provider_segmind.chat.cost_estimate import Price
    from airflow_provider_segmind.spend.store import SpendStore


REMEMBERED_SUBMISSIONS = 10_000
"""Requests of which a hook remembers the model; a long-lived one may submit many."""
LOOKUP_PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each retry of a failed Connection lookup, in a worker."""
_NOT_COPIED = frozenset({"_connection", "config", "_budgets", "_spend_store", "_log"})
_client_lock = threading.Lock()
"""Shared by all hooks, because a hook with its own lock could not be copied with its task."""


class SegmindHook(BaseHook):
    """
    Calls Segmind with the account of an Airflow Connection.

    The methods block; in an event loop use :meth:`get_async_conn`, whose client has the same methods. Only
    :meth:`submit` and :meth:`run_sync` cost money; both raise :class:`SegmindPausedError` while spending is paused, and
    :class:`SegmindBudgetError` where a budget of the Connection has no room. :meth:`get_result` and :meth:`run_sync`
    add what has finished to the spend record. The clients know neither budgets nor that record.

    :param segmind_conn_id: the Connection: password is the API key (``SEGMIND_API_KEY`` when empty), host the base URL,
        extra fields as in ``docs/reference/connection.md``.
    :param model_id: the model of :meth:`create_agent`; the connection's default when None.
    """

    conn_name_attr = "segmind_conn_id"
    default_conn_name = DEFAULT_CONNECTION
    conn_type = "segmind"
    hook_name = "Segmind"

    sharing_tasks: int = 1
    """Number of concurrent tasks that share the connection's ``requests_per_minute`` equally."""

    def __init__(self, segmind_conn_id: str = default_conn_name, *, model_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.segmind_conn_id = segmind_conn_id
        self.model_id = model_id
        self._client: SegmindClient | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is open, and the key: a copy, in another process too, reads the Connection again."""
        return {name: value for name, value in self.__dict__.items() if name not in _NOT_COPIED} | {"_client": None}

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return the form's hidden fields, labels and placeholders, for Airflow before 3.2."""
        return {name.replace("-", "_"): value for name, value in FIELD_BEHAVIOUR.items()}

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """
        Return the form's extra fields, for Airflow before 3.2.

        Airflow 3.0 and 3.1 replace a few of wtforms' fields by their own classes and show no others; FloatField is not
        among them.
        """
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
        from flask_babel import lazy_gettext
        from wtforms import IntegerField, StringField
        from wtforms.validators import Optional

        return {
            name: (IntegerField if "number" in details["schema"]["type"] else StringField)(
                lazy_gettext(details["label"]),
                widget=BS3TextFieldWidget(),
                description=details["description"],
                validators=[Optional()],
            )
            for name, details in CONNECTION_FIELDS.items()
        }

    @cached_property
    def config(self) -> ClientConfig:
        """Read the Connection; blocks, so not for event loops."""
        found = client_config(self._connection, self._connection.extra_dejson or {}, rate_share=1 / self.sharing_tasks)
        # Airflow masks the password of a Connection, but not a key from the environment, nor other forms of it.
        for form in forms(found.api_key):
            mask_secret(form)
        return found

    @cached_property
    def _connection(self) -> Connection:
        connection = self.get_connection(self.segmind_conn_id)
        check_extra(connection)
        return connection

    @property
    def output_folder(self) -> tuple[str | None, str]:
        """
        The folder for results too large for XCom, of tasks without an ``output_path``, and the setting that names it.

        The connection's ``output_path`` precedes that of ``[segmind]``.
        """
        return output_folder(self._connection)

    def find_connection(self, *, pauses: Sequence[float] = LOOKUP_PAUSES) -> None:
        """
        Read the Connection, with retries: for tasks whose request is already paid for.

        :param pauses: seconds before each retry.
        """
        for pause in (*pauses, None):
            try:
                _ = self.config
            except SegmindError:
                raise
            except Exception as error:
                # Airflow's API and secrets backends raise anything, and a server error looks like a missing id.
                if pause is None:
                    raise
                self.log.warning(
                    "Looking up connection %r failed (%s); trying again", self.segmind_conn_id, type(error).__name__
                )
                time.sleep(pause)
            else:
                return

    async def get_async_config(self) -> ClientConfig:
        """Read the Connection without blocking an event loop."""
        connection = await get_async_connection(self.segmind_conn_id, hook=self)
        check_extra(connection)
        extra = await get_async_extra_dejson(connection) or {}
        found = client_config(connection, extra, rate_share=1 / self.sharing_tasks)
        await mask_secrets_async(forms(found.api_key))
        return found

    def get_conn(self) -> SegmindClient:
        """Return the blocking client; the same one in every thread until :meth:`close`."""
        with _client_lock:
            if self._client is None:
                _silence_httpx_info()
                self._client = SegmindClient(self.config, may_spend=check_not_paused)
            return self._client

    async def get_async_conn(self) -> AsyncSegmindClient:
        """Return a new async client; close it, or use it with ``async with``."""
        from asgiref.sync import sync_to_async

        _silence_httpx_info()
        config = await self.get_async_config()
        return await AsyncSegmindClient.create(config, may_spend=sync_to_async(check_not_paused))

    def close(self) -> None:
        """Close the connections of the blocking client."""
        with _client_lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    @adds_help
    def submit(self, model: str | None, inputs: Mapping[str, Any]) -> SubmittedRequest:
        """
        Submit a request: one paid POST, billed when it completes. Calling this twice pays twice.

        :param model: the model to run (Segmind calls it the slug); the connection's default when None.
        :param inputs: the JSON body, as the model's page describes it.
        :raises SegmindSubmissionUnknownError: it may have been created; search the request history.
        :raises SegmindError: it was refused or not sent; nothing was billed.
        """
        chosen = self.model_or_default(model)
        with self._budgeted(chosen, inputs) as settle:
            submitted = self.get_conn().submit(chosen, inputs)
            settle(submitted.request_id)
        self._submitted[submitted.request_id] = (chosen, time.time())
        while len(self._submitted) > REMEMBERED_SUBMISSIONS:
            # In one step, because other threads submit meanwhile, and an error here would lose the id of a paid
            # request.
            self._submitted.popitem(last=False)
        return submitted

    @adds_help
    def run_sync(
        self, model: str | None, inputs: Mapping[str, Any], *, timeout: float | timedelta | None = None
    ) -> SyncResult:
        """
        Run a model through the blocking v1 call: one paid POST, billed if the response is 200.

        :param timeout: seconds, or a ``timedelta``, for the whole call, above 0 and at most a day; the connection's
            ``request_timeout`` when None.
        :raises SegmindSubmissionUnknownError: it may have run and be billed; search the request history.
        :raises SegmindError: it was refused or not sent; nothing was billed.
        """
        chosen = self.model_or_default(model)
        with self._budgeted(chosen, inputs) as settle:
            result = self.get_conn().run_sync(chosen, inputs, timeout=as_seconds(timeout))
            request_id = result.request_id or uuid.uuid4().hex
            settle(request_id)
            self._budgets.settled(request_id, result.cost)
        if result.request_id is not None:
            # Without an id its entry could not be recognized when the history has the request as well.
            self._record(result.request_id, "success", model=chosen, cost=result.cost)
        return result

    def _record(self, request_id: str, outcome: Literal["success", "failed"], **known: Any) -> None:
        """Add a finished request to the spend record, if there is one; never raises, because it is paid for."""
        from airflow_provider_segmind.enrichment.outcomes import Outcome
        from airflow_provider_segmind.spend.recorder import recorder_here

        recorder = recorder_here(self.segmind_conn_id, log=self.log, store=lambda: self._spend_store)
        if recorder is not None:
            model, submitted_at = self._submitted.get(request_id, ("", None))
            recorder.record(request_id, Outcome(outcome), **{"model": model, "submitted_at": submitted_at, **known})

    @cached_property
    def _spend_store(self) -> SpendStore | None:
        """The spend record, looked up once for all results of this hook."""
        from airflow_provider_segmind.spend.store import configured_store

        return configured_store()

    @cached_property
    def _submitted(self) -> OrderedDict[str, tuple[str, float]]:
        """Model and epoch second of the latest requests that this hook has submitted, for the spend record."""
        return OrderedDict()

    @contextmanager
    def _budgeted(self, model: str, inputs: Mapping[str, Any]) -> Iterator[Callable[[str], None]]:
        """Reserve what a paid call may cost, and return it if the call is refused; yields what notes its id."""
        from airflow_provider_segmind.client.submission import json_digest

        # An owner for each call: a reservation of another thread must not be taken for one that an earlier try left
        # behind.
        reservation = self._budgets.reserve(model, inputs, json_digest(inputs), owner=f"hook/{uuid.uuid4().hex}")
        self._budgets.sending(reservation)
        try:
            yield lambda request_id: self._budgets.accepted(reservation, request_id)
        except SegmindError as error:
            if error.billed is False:
                self._budgets.unsent(reservation)
            raise

    @cached_property
    def _budgets(self) -> BudgetGuard:
        return self.budget_guard(f"hook/{uuid.uuid4().hex}", for_others=True)

    @adds_help
    def get_status(self, request_id: str) -> RequestState:
        """Return the state of a request; FAILED is a state here, not an error. Free."""
        return self.get_conn().get_status(request_id)

    @adds_help
    def get_result(self, request_id: str) -> RequestResult:
        """
        Fetch the body of a request; it is final only when ``completed``. Free.

        :raises SegmindRequestFailedError: Segmind reports FAILED; nothing was billed.
        :raises SegmindRequestExpiredError: the id is unknown, or older than an hour.
        """
        try:
            result = self.get_conn().get_result(request_id)
        except SegmindRequestFailedError as error:
            self._budgets.settled(request_id, error.cost)
            self._record(request_id, "failed", cost=error.cost)
            raise
        if result.completed:
            self._budgets.settled(request_id, result.metrics.cost)
            self._record(request_id, "success", cost=result.metrics.cost, metrics=result.metrics.to_json())
        return result

    @adds_help
    def get_credits(self) -> Credits:
        """Return the balance in USD. Free; runs no model."""
        return self.get_conn().get_credits()

    def get_balance(self) -> float | None:
        """Return the balance in USD, None for an account that never had credits. Free; runs no model."""
        try:
            return self.get_credits().total
        except SegmindAPIError as error:
            # Such an account has no balance record.
            if error.status_code != 404:
                raise
            return None

    def get_prices(self) -> dict[str, Price] | None:
        """
        Return the prices in the connection's extra, None when there are none.

        :raises SegmindConfigError: one is invalid; names it.
        """
        from airflow_provider_segmind.chat.cost_estimate import read_prices

        connection = self.get_connection(self.segmind_conn_id)
        check_extra(connection)
        given = (connection.extra_dejson or {}).get("prices")
        try:
            return read_prices(given) if given else None
        except SegmindConfigError as error:
            raise SegmindConfigError(f"Extra of connection {self.segmind_conn_id!r}: {error}") from error

    def budget_settings(self, budget: str | None = None) -> BudgetSettings:
        """
        Read the budgets that apply to requests of this Connection.

        :param budget: one of ``[segmind] budgets`` that a task names.
        :raises SegmindConfigError: a limit cannot be read, or there is no store to enforce it.
        """
        from airflow_provider_segmind.hooks.budgets import budget_settings

        return budget_settings(self.segmind_conn_id, self._connection.extra_dejson or {}, budget, self.get_prices())

    def budget_guard(
        self, owner: str, budget: str | None = None, *, log: Any = None, for_others: bool = False
    ) -> BudgetGuard:
        """
        Return what reserves and settles the cost of requests; it reads the Connection when it is first needed.

        :param owner: the task instance, ``dag_id/run_id/task_id/map_index``.
        :param budget: one of ``[segmind] budgets``.
        :param for_others: whether it settles requests that other tasks have sent.
        """
        from airflow_provider_segmind.budget.guard import BudgetGuard
        from airflow_provider_segmind.stores import locate

        return BudgetGuard(
            partial(self.budget_settings, budget),
            owner=owner,
            connection=self.segmind_conn_id,
            history=self.get_conn,
            ledgers=locate,
            log=log or self.log,
            for_others=for_others,
        )

    def settle_orphans(self, store: BudgetStore) -> None:
        """
        Settle orphaned reservations of other tasks on this Connection. Free.

        :raises SegmindStateError: the store did not answer.
        """
        from airflow_provider_segmind.budget.orphaned_reservations import settle_orphans
        from airflow_provider_segmind.stores import locate

        settle_orphans(
            store, self.segmind_conn_id, history=self.get_conn(), ledgers=locate, now=time.time(), log=self.log
        )

    @adds_help
    def list_models(self) -> list[ModelInfo]:
        """List the models. Free."""
        return self.get_conn().list_models()

    @adds_help
    def get_inputs_schema(self, model: str | None) -> dict[str, Any] | None:
        """Return the JSON Schema of a model's body according to the model list, None if it has none. Free."""
        chosen = self.model_or_default(model)
        rows = [row for row in self.list_models() if row.slug == chosen]
        return schema_of_parameters(rows[0].parameters) if rows else None

    @adds_help
    def estimate(self, model: str | None, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """
        Return what a request may cost before it is paid. Free: nothing is submitted.

        :param inputs: the JSON body, as the model's page describes it.
        :returns: ``model``, ``input_tokens``, ``uncounted_attachments``, ``low`` and ``high`` (USD), ``price``,
            ``balance`` (USD), ``covered``, ``summary`` and ``warning``; None for what is unknown.
        :raises SegmindConfigError: such a request could not be sent.
        """
        from airflow_provider_segmind.chat.cost_estimate import estimate_request
        from airflow_provider_segmind.client.endpoints import encode_inputs

        encode_inputs(inputs)
        prices = self.get_prices()
        return estimate_request(self.model_or_default(model), inputs, prices=prices, balance=self.get_balance())

    @adds_help
    def get_request_record(self, request_id: str) -> RequestRecord:
        """Return one row of the request history, of any age. Free; rows appear late."""
        return self.get_conn().get_request_record(request_id)

    @adds_help
    def list_request_records(self, **filters: Any) -> RecordPage:
        """
        Return a page of the request history, a list. Free.

        A row without a usable id is left out, so only a page whose ``rows`` is 0 is the end of the history.

        :param filters: ``model``, ``from_date`` and ``to_date`` (dates, or strings like ``2026-11-27``), ``status``,
            ``page``, ``per_page``.
        """
        return self.get_conn().list_request_records(**filters)

    @adds_help
    def upload(self, *files: str | Path | bytes, media_type: str | None = None) -> list[str]:
        """
        Store files at Segmind and return their URLs, which are public.

        :param files: local paths, ``data:`` URLs, or bytes.
        :param media_type: for bytes, and for paths whose name does not say it.
        :raises SegmindConfigError: no file is given, or one cannot be read; nothing was sent.
        """
        if not files:
            raise SegmindConfigError("No file to upload is given. Nothing was sent.")
        return self.get_conn().upload([_data_url(file, media_type) for file in files])

    def create_agent(self, output_type: Any = str, **agent: Any) -> Any:
        """
        Make a pydantic-ai agent whose model is at Segmind, as Airflow's common-ai provider asks of a hook.

        It needs the extra ``[common-ai]`` and a running task: each step of the agent is a paid request with a
        submission record of its own, so that a retry pays none of them again. See ``docs/how-to/common-ai.md``.

        :param output_type: what the agent returns.
        :param agent: ``instructions``, ``spec_file``, and arguments of pydantic-ai's ``Agent``.
        :raises SegmindConfigError: no task is running, or no model is named.
        :raises SegmindStateError: the records of requests cannot be read; nothing was sent.
        """
        # By name, as Airflow names hooks: that module imports packages above this one.
        bridge = import_module("airflow_provider_segmind.agent_model")
        return bridge.create_agent(self, output_type, self.model_id, **agent)

    def model_or_default(self, model: str | None) -> str:
        """
        Return ``model``, or the connection's default.

        :raises SegmindConfigError: neither is given.
        """
        chosen = model or self.config.model
        if not chosen:
            raise SegmindConfigError(
                f"'model' is missing, and connection {self.segmind_conn_id!r} has no default model. Nothing was sent."
            )
        return chosen

    def _check_limits(self) -> None:
        """Check the extra's limits, but not their store, which the API server may not know."""
        from airflow_provider_segmind.hooks.budgets import connection_budget
        from airflow_provider_segmind.hooks.connection import max_paid_in_flight

        extra = self._connection.extra_dejson or {}
        connection_budget(self.segmind_conn_id, extra)
        max_paid_in_flight(self.segmind_conn_id, extra)

    def test_connection(self) -> tuple[bool, str]:
        """Fetch the balance: one free call that runs no model."""
        try:
            client = self.get_conn()
            self.get_prices()
            self._check_limits()
            balance = client.perform(client.wire.credits(), ONE_ATTEMPT)
        except SegmindAuthenticationError as error:
            return False, str(with_help(error))
        except SegmindAPIError as error:
            if error.status_code == 404:
                return True, (
                    "Segmind accepts the API key but has no balance record for the account: add credits before the "
                    "first request."
                )
            return False, str(with_help(error))
        except Exception as error:  # noqa: BLE001 - the form shows the error instead of a stack trace
            return False, mask_known(f"{type(error).__name__}: {error}")
        finally:
            self.close()
        return True, (
            f"Connected to {self.config.endpoints.gateway}. Balance: {format_usd(balance.total)} "
            f"(credits {format_usd(balance.credits or 0)}, free credits {format_usd(balance.free_credits or 0)})."
        )


def _data_url(file: str | Path | bytes, media_type: str | None) -> str:
    if isinstance(file, str) and file.startswith("data:"):
        return file
    if isinstance(file, bytes):
        content, kind = file, media_type
    else:
        try:
            content = Path(file).read_bytes()
        except (OSError, TypeError, ValueError) as error:
            raise SegmindConfigError(
                f"A file to upload, {shorten(repr(file), 100)}, cannot be read ({type(error).__name__}): give a local "
                "path, a data: URL or bytes. Nothing was sent."
            ) from error
        kind = media_type or mimetypes.guess_type(str(file))[0]
    if not kind:
        raise SegmindConfigError("'media_type' is needed for a file whose name does not say it. Nothing was sent.")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _silence_httpx_info() -> None:
    """Keep httpx from logging every poll at INFO, unless the deployment has set its logger's level."""
    for name in ("httpx", "httpx2"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)
