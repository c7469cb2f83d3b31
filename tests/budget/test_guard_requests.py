"""What tasks of one request, and of a chain of requests, reserve in their budgets and settle."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import sqlite3
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.budget.guard import BudgetGuard
from airflow_provider_segmind.budget.limits import BudgetRule, windows
from airflow_provider_segmind.budget.orphaned_reservations import settle_orphans
from airflow_provider_segmind.budget.sql_store import SqlBudgetStore
from airflow_provider_segmind.budget.store import BudgetStore, Usage
from airflow_provider_segmind.client.request_history import HISTORY_COMPLETE_AFTER
from airflow_provider_segmind.compat import AirflowFailException, AirflowSkipException, TaskDeferred
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.exceptions import SegmindBudgetError, SegmindInFlightError, SegmindStateError
from airflow_provider_segmind.operators.request import (
    SegmindResultOperator,
    SegmindRunOperator,
    SegmindSubmitOperator,
)
from airflow_provider_segmind.sensors.request import SegmindRequestSensor
from airflow_provider_segmind.triggers import spending as triggers
from tests.support.airflow_fakes import Clock, Run, by_hand, hook_by
from tests.support.budgets import DriverHook
from tests.support.chat_tasks import NUMBER, Chat

MODEL = "gemini-3.1-flash-lite"
CAPPED = {"prompt": "question", "max_tokens": 1000}
BOUND = 0.0016
"""USD above the bound of such a request."""


class Killed(BaseException):
    """The worker died."""


Limit = Callable[..., BudgetStore]


@pytest.fixture
def limit(emulator: SegmindEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Give the connection a budget, in dollars a day, that is kept in SQLite."""

    def limited(daily: float | None = None, **extra: Any) -> BudgetStore:
        given = json.loads(emulator.connection_json)
        own = {} if daily is None else {"daily_budget": daily}
        connection = {**given, "extra": {**given["extra"], **own, **extra}}
        monkeypatch.setenv("AIRFLOW_CONN_SEGMIND_DEFAULT", json.dumps(connection))
        database = tmp_path / "budgets.sqlite"
        monkeypatch.setenv("AIRFLOW_CONN_A_DATABASE", json.dumps({"conn_type": "sqlite", "host": str(database)}))
        monkeypatch.setenv("AIRFLOW__SEGMIND__SPEND_CONN_ID", "a_database")
        return SqlBudgetStore(DriverHook("sqlite", "?", {"database": str(database)}), "a_database")

    return limited


def make(clock: Clock, **fields: Any) -> Any:
    given = {"task_id": "a_task", "model": MODEL, "inputs": CAPPED, "deferrable": False, **fields}
    return by_hand(SegmindRunOperator(**given), clock)


def used(store: BudgetStore, name: str = "connection:segmind_default") -> Usage:
    (window,) = windows([BudgetRule(name, 1, None)], time.time())
    return store.usage([window.key]).get(window.key, Usage())


def bill(emulator: SegmindEmulator) -> float:
    return round(sum(entry.cost for entry in emulator.bill) * 1e6, 6)


def test_a_request_is_reserved_before_it_is_sent_and_settled_by_its_bill(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit
) -> None:
    store = limit(1.0)
    seen: list[Usage] = []
    run.store.on_write = lambda value: seen.append(used(store))

    make(clock).execute(run.context())

    assert seen[0].spent == 0
    assert 1000 < seen[0].reserved < BOUND * 1e6
    assert used(store) == Usage(bill(emulator), 0)
    assert bill(emulator) > 0


def test_a_request_without_room_is_not_sent_and_the_task_fails_without_a_retry(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit
) -> None:
    store = limit(0.0001)

    with pytest.raises(AirflowFailException, match="Nothing was sent"):
        make(clock).execute(run.context())

    assert emulator.posts() == []
    assert used(store) == Usage()
    assert run.store.written == []


def test_a_budget_is_used_until_the_next_request_has_no_room(
    emulator: SegmindEmulator, clock: Clock, limit: Limit
) -> None:
    store = limit(BOUND + 0.0002)

    def use_up() -> None:
        for _ in range(100):
            make(clock).execute(Run().context())

    with pytest.raises(AirflowFailException, match=r"has .* of .* left. Nothing was sent. The budget resets at"):
        use_up()

    assert len(emulator.posts()) > 1
    assert used(store) == Usage(bill(emulator), 0)
    assert used(store).spent <= (BOUND + 0.0002) * 1e6


def test_a_task_may_be_skipped_where_its_budget_has_no_room(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit
) -> None:
    limit(0.0001)

    with pytest.raises(AirflowSkipException, match="on_budget='skip_downstream'"):
        make(clock, on_budget="skip_downstream").execute(run.context())

    assert emulator.posts() == []


def test_a_task_may_wait_for_the_next_day_without_a_worker(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit
) -> None:
    store = limit(BOUND)
    emulator.script(model=MODEL, text="answer", cost=0.0005)
    make(clock).execute(Run(run_id="other").context())
    (window,) = windows([BudgetRule("connection:segmind_default", 1, None)], time.time())

    with pytest.raises(TaskDeferred) as deferred:
        make(clock, on_budget="defer").execute(run.context())

    assert deferred.value.method_name == "execute_after_pause"
    assert window.resets_at <= deferred.value.trigger.until <= window.resets_at + 60
    assert len(emulator.posts()) == 1
    assert used(store).reserved == 0


def test_a_request_that_costs_more_than_a_day_allows_does_not_wait_for_the_next(
    clock: Clock, run: Run, limit: Limit
) -> None:
    limit(0.0001)

    with pytest.raises(AirflowFailException, match=r"more than the day .* allows"):
        make(clock, on_budget="defer").execute(run.context())


def test_a_named_budget_holds_besides_that_of_the_connection(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = limit(1.0)
    monkeypatch.setenv("AIRFLOW__SEGMIND__BUDGETS", json.dumps({"team-a": {"daily": 1}, "team-b": {"daily": 0}}))

    make(clock, budget="team-a").execute(run.context())
    with pytest.raises(AirflowFailException, match="budget 'team-b'"):
        make(clock, budget="team-b").execute(Run().context())
    with pytest.raises(AirflowFailException, match="'budget' is 'team-c'"):
        make(clock, budget="team-c").execute(Run().context())

    assert used(store, "team-a") == used(store) == Usage(bill(emulator), 0)
    assert used(store, "team-b") == Usage()
    assert len(emulator.posts()) == 1


def test_a_budget_without_a_store_is_refused(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(1.0)
    monkeypatch.delenv("AIRFLOW__SEGMIND__SPEND_CONN_ID")

    with pytest.raises(AirflowFailException, match="needs a store that all tasks share, but none is set"):
        make(clock).execute(run.context())

    assert emulator.posts() == []


def test_a_store_that_does_not_answer_stops_spending(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, tmp_path: Path
) -> None:
    limit(1.0)
    (tmp_path / "budgets.sqlite").write_text("not a database " * 100)

    with pytest.raises(Exception, match=r"The store of budgets .* cannot be used"):
        make(clock).execute(run.context())

    assert emulator.posts() == []


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        ("flux-2-pro", {"prompt": "a cat"}, "its price is not known"),
        (MODEL, {**CAPPED, "tools": [{"x": 1}]}, "what 'tools' costs is known only from the bill"),
        (MODEL, {**CAPPED, "num_outputs": 4}, "what 'num_outputs' costs is known only from the bill"),
        (MODEL, {**CAPPED, "files": ["https://example.com/a.pdf"]}, "what 'files' costs is known only from the bill"),
    ],
)
def test_a_request_without_a_known_bound_is_refused(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, model: str, inputs: Any, message: str
) -> None:
    limit(1.0)

    with pytest.raises(AirflowFailException, match=message):
        make(clock, model=model, inputs=inputs).execute(run.context())

    assert emulator.posts() == []


def test_a_price_in_the_connection_gives_a_request_its_bound(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit
) -> None:
    store = limit(1.0, prices={"gpt-5.4-mini": {"input": 1, "output": 2}})
    inputs = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}

    make(clock, model="gpt-5.4-mini", inputs=inputs).execute(run.context())

    assert used(store) == Usage(bill(emulator), 0)


@pytest.mark.parametrize(
    "inputs", [{"prompt": "a cat"}, {"image": "https://example.com/a.png", "num_outputs": 4}], ids=str
)
def test_a_price_for_each_request_allows_media_under_a_budget(
    emulator: SegmindEmulator, clock: Clock, limit: Limit, inputs: Any
) -> None:
    store = limit(0.11, prices={"flux-2-pro": {"request": 0.05}})
    seen: list[Usage] = []

    for _ in range(2):
        run = Run()
        run.store.on_write = lambda _: seen.append(used(store))
        make(clock, model="flux-2-pro", inputs=inputs).execute(run.context())
    with pytest.raises(AirflowFailException, match=r"may cost up to \$0.05"):
        make(clock, model="flux-2-pro", inputs=inputs).execute(Run().context())

    assert seen[0] == Usage(0, 50_000)
    assert used(store) == Usage(bill(emulator), 0) == Usage(100_000, 0)


def _schema(properties: int) -> dict[str, Any]:
    named = {f"a_property_{number}": {"type": "string", "maxLength": number} for number in range(properties)}
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object", "properties": named}}}


@pytest.mark.parametrize(
    "inputs",
    [
        {"prompt": "x", "response_format": _schema(300)},
        {"messages": [{"role": "user", "content": "x"}], "response_format": _schema(3)},
        {"prompt": "x", "metadata": {f"name_{number}": number for number in range(2000)}},
        {"prompt": "x", "stop": ["y" * 50] * 200},
        {"prompt": "x", "logit_bias": {str(number): 0.5 for number in range(3000)}},
        {"messages": {"contents": [{"role": "user", "parts": [{"text": "x"}] * 500}]}},
        {"messages": {"contents": [{"role": "user", "parts": [{"text": "x"}]}],
                      "generationConfig": {"responseSchema": _schema(200)}}},
        {"messages": [{"role": "user", "content": "x", "tool_calls": [{"arguments": "z" * 9000}]}]},
    ],
    ids=["schema", "small schema", "metadata", "stop", "logit_bias", "parts", "generationConfig", "tool_calls"],
)  # fmt: skip
def test_no_bill_is_higher_than_its_bound_where_all_of_a_body_is_billed(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, inputs: Any
) -> None:
    emulator.settings(bill_whole_body=True)
    store = limit(1.0)
    seen: list[Usage] = []
    run.store.on_write = lambda _: seen.append(used(store))

    make(clock, inputs={**inputs, "max_tokens": 20}).execute(run.context())

    assert 0 < bill(emulator) <= seen[0].reserved


def test_without_an_output_cap_the_models_own_counts_and_the_log_says_so(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, caplog: pytest.LogCaptureFixture
) -> None:
    store = limit(1.0)
    seen: list[Usage] = []
    run.store.on_write = lambda value: seen.append(used(store))

    make(clock, inputs={"prompt": "question"}).execute(run.context())

    assert seen[0].reserved > 65_536 * 1.5
    assert "no output cap" in caplog.text


def test_a_failed_request_returns_all_that_was_reserved(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit
) -> None:
    store = limit(1.0)
    emulator.script(model=MODEL, fail="blocked")

    with pytest.raises(AirflowFailException):
        make(clock).execute(run.context())

    assert used(store) == Usage()


def test_a_refused_request_returns_all_that_was_reserved(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit
) -> None:
    store = limit(1.0)
    emulator.fault("submit", status=402, body={"error": "Insufficient credits"})

    with pytest.raises(AirflowFailException):
        make(clock).execute(run.context())

    assert used(store) == Usage()
    assert store.open_reservations() == []


def test_a_worker_killed_before_the_post_leaves_its_reservation_to_the_retry(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit
) -> None:
    store = limit(BOUND)

    def die(_: Any) -> None:
        raise Killed

    run.store.on_write = die
    with pytest.raises(Killed):
        make(clock).execute(run.context())
    assert used(store).reserved > 0
    run.store.on_write = lambda _: None

    make(clock).execute(run.context())

    assert used(store) == Usage(bill(emulator), 0)
    assert len(emulator.posts()) == 1


def test_a_worker_killed_between_the_record_and_the_note_that_it_sends_has_sent_nothing(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = limit(BOUND)

    def die(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(BudgetGuard, "sending", die)
        with pytest.raises(Killed):
            make(clock).execute(run.context())
    assert used(store).reserved > 0

    make(clock).execute(run.context())

    assert used(store) == Usage(bill(emulator), 0)
    assert len(emulator.posts()) == 1


def test_a_worker_killed_after_the_note_that_it_sends_may_have_sent(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = limit(BOUND)
    genuine = BudgetGuard.sending

    def die(*given: Any) -> None:
        genuine(*given)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(BudgetGuard, "sending", die)
        with pytest.raises(Killed):
            make(clock).execute(run.context())

    with pytest.raises(AirflowFailException, match="whether Segmind accepted it is unknown"):
        make(clock).execute(run.context())

    assert used(store).reserved > 0
    assert emulator.posts() == []


@pytest.mark.parametrize("arrives", [True, False])
def test_a_post_that_was_given_up_stays_charged_over_retries_until_the_history_decides(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, arrives: bool
) -> None:
    store = limit(1.0)
    emulator.settings(history_delay=7200.0)
    emulator.script(model=MODEL, text="answer", latency=30)
    emulator.fault("submit", reset=True, when="after" if arrives else "before")
    with pytest.raises(TaskDeferred):
        make(clock, on_unknown="resubmit", deferrable=True, sync_wait=0).execute(run.context())
    (given_up,) = run.store.record["given_up"]
    (lost,) = (one for one in store.open_reservations() if one.id == given_up["reservation"])
    bound = lost.amount
    assert used(store) == Usage(0, 2 * bound)

    # The worker is lost, and the retry finishes; clearing the task changes nothing.
    emulator.advance(60)
    for _ in range(2):
        make(clock, on_unknown="resubmit").execute(run.context())
        assert run.store.record["given_up"] == [given_up]
        assert store.open_reservations() == [lost]
        answered = emulator.bill[-1].cost * 1e6
        assert used(store) == Usage(round(answered, 6), bound)

    emulator.advance(7200.0)
    log, history = logging.getLogger("later"), hook_by(clock).get_conn()
    later = time.time() + HISTORY_COMPLETE_AFTER + 60
    settle_orphans(store, "segmind_default", history=history, ledgers=pytest.fail, now=later, log=log)

    assert used(store) == (Usage(bill(emulator), 0) if arrives else Usage(bill(emulator), bound))


def test_a_worker_that_wakes_after_its_retry_has_sent_sends_nothing_and_keeps_its_record(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = limit(1.0)
    genuine = BudgetGuard.sending

    def sleep(*given: Any) -> None:
        monkeypatch.setattr(BudgetGuard, "sending", genuine)
        make(clock).execute(run.context())
        genuine(*given)

    monkeypatch.setattr(BudgetGuard, "sending", sleep)
    with pytest.raises(SegmindStateError, match="another try of the task has taken it over"):
        make(clock).execute(run.context())

    assert [entry.request_id for entry in emulator.bill] == [run.store.record["request_id"]]
    assert used(store) == Usage(bill(emulator), 0)
    assert len(emulator.posts()) == 1


def test_a_request_that_was_deferred_is_settled_when_it_resumes(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit
) -> None:
    store = limit(1.0)
    emulator.script(model=MODEL, text="answer", latency=30)
    with pytest.raises(TaskDeferred):
        make(clock, deferrable=True, sync_wait=0).execute(run.context())
    assert used(store).reserved > 0

    make(clock).execute_complete(run.context())

    assert used(store) == Usage(bill(emulator), 0)


def test_a_lost_post_that_the_history_shows_is_settled_by_its_bill(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit
) -> None:
    store = limit(1.0)
    emulator.fault("submit", reset=True, when="after", times=1)

    make(clock).execute(run.context())

    assert len(emulator.bill) == 1
    assert used(store) == Usage(bill(emulator), 0)


def test_a_request_whose_acceptance_the_store_missed_is_settled_all_the_same(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = limit(1.0)

    def lost(*_: Any) -> None:
        raise sqlite3.OperationalError("the database is gone")

    with monkeypatch.context() as patch:
        patch.setattr(SqlBudgetStore, "accepted", lost)
        patch.setattr(SqlBudgetStore, "settle", lost)
        make(clock).execute(run.context())
    assert used(store).reserved > 0

    make(clock).execute(run.context())

    assert len(emulator.posts()) == 1
    assert used(store) == Usage(bill(emulator), 0)


def test_each_follow_up_of_a_chat_is_reserved_and_settled_by_itself(
    emulator: SegmindEmulator, chat: Chat, limit: Limit
) -> None:
    store = limit(1.0)
    emulator.script(model=MODEL, text='{"x": 7}')
    emulator.script(model=MODEL, text='{"x": "seven"}', times=1)

    chat.ask(output_type=NUMBER, options={"max_tokens": 1000})

    assert chat.posts == 2
    assert used(store) == Usage(bill(emulator), 0)


@pytest.mark.parametrize("waits", ["result", "sensor"])
def test_a_submitted_request_is_settled_by_the_task_that_waits_for_it(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, waits: str
) -> None:
    store = limit(1.0)
    submit = by_hand(SegmindSubmitOperator(task_id="a_task", model=MODEL, inputs=CAPPED), clock)
    submitted = submit.execute(run.context())
    assert used(store).reserved > 0
    emulator.advance(60)

    other = Run(task_id="another_task")
    if waits == "result":
        task = by_hand(SegmindResultOperator(task_id="another_task", request_id=submitted["request_id"]), clock)
    else:
        task = by_hand(SegmindRequestSensor(task_id="another_task", request_id=submitted["request_id"]), clock)
    task.execute(other.context())

    assert used(store) == Usage(bill(emulator), 0)


def test_a_submitted_request_that_nobody_fetches_is_settled_by_the_next_task(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = limit(1.0)
    by_hand(SegmindSubmitOperator(task_id="a_task", model=MODEL, inputs=CAPPED), clock).execute(run.context())
    emulator.advance(60)
    monkeypatch.setattr("airflow_provider_segmind.budget.orphaned_reservations.ORPHANED_AFTER", -10.0)

    make(clock).execute(Run(task_id="next").context())

    assert len(emulator.bill) == 2
    assert used(store) == Usage(bill(emulator), 0)


def test_a_bill_above_its_bound_is_counted_and_blocks_what_follows(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, caplog: pytest.LogCaptureFixture
) -> None:
    limit(BOUND)
    emulator.script(model=MODEL, text="answer", cost=0.01)

    make(clock).execute(run.context())

    assert "more than the" in caplog.text
    with pytest.raises(AirflowFailException, match=r"has \$0.00 of"):
        make(clock).execute(Run().context())


@pytest.mark.parametrize("cost", [0.0165, 0.03])
def test_the_task_whose_bill_reaches_four_fifths_of_a_budget_warns_and_no_other(
    emulator: SegmindEmulator, clock: Clock, limit: Limit, caplog: pytest.LogCaptureFixture, cost: float
) -> None:
    limit(0.02)
    emulator.script(model=MODEL, text="answer", cost=cost)
    caplog.set_level(logging.WARNING)

    make(clock).execute(Run().context())
    assert re.findall(r"80% of \$0.02, the limit of the day .* of budget .* has been spent", caplog.text) != []
    emulator.unscript()
    for _ in range(2):
        with contextlib.suppress(AirflowFailException):
            make(clock).execute(Run().context())

    assert caplog.text.count("has been spent") == 1


def test_an_orphan_whose_bill_reaches_four_fifths_of_a_budget_is_warned_of_by_who_settles_it(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, caplog: pytest.LogCaptureFixture
) -> None:
    store = limit(0.02)
    emulator.script(model=MODEL, text="answer", cost=0.0165, latency=30)
    _held(clock, run)
    emulator.advance(60)
    (orphan,) = store.open_reservations()
    assert store.claim(orphan, time.time() - 1000)
    emulator.unscript()
    caplog.set_level(logging.WARNING)

    make(clock).execute(Run().context())

    assert caplog.text.count("has been spent") == 1


@pytest.mark.parametrize(("bound", "cost", "warned"), [(2050, 2000, 1), (3400, 4000, 1), (3400, 2600, 0)])
def test_a_budget_that_is_used_up_by_four_fifths_and_refuses_is_warned_of_once(
    emulator: SegmindEmulator,
    clock: Clock,
    limit: Limit,
    caplog: pytest.LogCaptureFixture,
    bound: int,
    cost: int,
    warned: int,
) -> None:
    limit(0.01, prices={MODEL: {"request": bound / 1e6}})
    emulator.script(model=MODEL, text="answer", cost=cost / 1e6)
    caplog.set_level(logging.WARNING)

    def use_up() -> None:
        for _ in range(20):
            make(clock).execute(Run().context())

    for _ in range(3):
        with pytest.raises(AirflowFailException, match="Nothing was sent"):
            use_up()

    assert caplog.text.count("has been spent") == warned


def _held(clock: Clock, run: Run) -> None:
    """Let another task have a request in flight, for which its bound is reserved."""
    with pytest.raises(TaskDeferred):
        make(clock, deferrable=True, sync_wait=0).execute(run.context())


@pytest.mark.parametrize("on_budget", ["fail", "skip_downstream"])
def test_a_request_waits_on_its_worker_for_what_others_have_reserved(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, on_budget: str
) -> None:
    store = limit(BOUND + 0.0002)
    emulator.script(model=MODEL, text="answer", latency=30)
    _held(clock, run)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.ahead += seconds
        if len(slept) == 3:
            clock.ahead += 30
            make(clock).execute_complete(run.context())

    clock.sleep = sleep  # type: ignore[method-assign]
    make(clock, on_budget=on_budget).execute(Run(task_id="waiting").context())

    assert len(slept) >= 3
    assert len(emulator.posts()) == 2
    assert used(store) == Usage(bill(emulator), 0)


def test_a_request_that_waited_for_its_budget_is_not_paid_if_another_task_has_the_answer_by_then(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, tmp_path: Path
) -> None:
    store = limit(BOUND + 0.0002)
    emulator.script(model=MODEL, text="answer", latency=30)
    reuse = {"reuse_answers": "always", "answers_path": str(tmp_path / "answers")}
    with pytest.raises(TaskDeferred):
        make(clock, deferrable=True, sync_wait=0, **reuse).execute(run.context())

    def sleep(seconds: float) -> None:
        clock.ahead += seconds + 30
        make(clock, **reuse).execute_complete(run.context())

    clock.sleep = sleep  # type: ignore[method-assign]
    waiting = Run(task_id="waiting")
    make(clock, **reuse).execute(waiting.context())

    assert len(emulator.posts()) == 1
    assert waiting.ti.pushed["reused"] is True
    assert used(store) == Usage(bill(emulator), 0)


def test_a_request_whose_room_is_not_returned_fails_for_a_retry_after_some_minutes(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit
) -> None:
    store = limit(BOUND)
    emulator.script(model=MODEL, text="answer", latency=30)
    _held(clock, run)

    with pytest.raises(SegmindBudgetError, match="a retry checks again") as raised:
        make(clock).execute(Run(task_id="waiting").context())

    assert raised.value.retryable
    assert not isinstance(raised.value, AirflowFailException)
    assert 250 < sum(clock.slept) < 350
    assert len(emulator.posts()) == 1
    assert used(store).spent == 0


@pytest.mark.parametrize("seconds", [0, 100, 400, 5000])
def test_a_wait_for_a_place_leaves_the_wait_for_what_others_have_reserved_as_long(
    emulator: SegmindEmulator, clock: Clock, limit: Limit, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    limit(1.0)
    emulator.script(model=MODEL, text="answer")
    reserve, began = BudgetGuard.reserve, clock()

    def refused(guard: BudgetGuard, *args: Any, **options: Any) -> Any:
        waited = clock() - began
        if waited < seconds:
            raise SegmindInFlightError("No place is free.")
        if waited < seconds + 200:
            raise SegmindBudgetError("Others have reserved it.", resets_at=None, ask_again_in=5.0)
        return reserve(guard, *args, **options)

    monkeypatch.setattr(BudgetGuard, "reserve", refused)

    make(clock).execute(Run().context())

    assert len(emulator.posts()) == 1


@pytest.mark.parametrize(
    "how", [{"deferrable": True}, {"on_budget": "defer"}, {"deferrable": True, "on_budget": "defer"}]
)
def test_a_request_defers_in_short_steps_for_what_others_have_reserved(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, how: dict[str, Any]
) -> None:
    store = limit(BOUND + 0.0002)
    emulator.script(model=MODEL, text="answer", latency=30)
    _held(clock, run)

    for _ in range(2):
        with pytest.raises(TaskDeferred) as deferred:
            make(clock, **how).execute(Run(task_id="waiting").context())
        assert deferred.value.method_name == "execute_after_pause"
        assert isinstance(deferred.value.trigger, triggers.SegmindBudgetTrigger)
        assert deferred.value.trigger.until - time.time() < 120
    assert clock.slept == []
    clock.ahead += 30
    make(clock).execute_complete(run.context())
    make(clock, **{**how, "sync_wait": 60}).execute_after_pause(Run(task_id="waiting").context())

    assert len(emulator.posts()) == 2
    assert used(store) == Usage(bill(emulator), 0)


def test_more_uncapped_requests_than_fit_at_once_are_all_answered(
    emulator: SegmindEmulator, clock: Clock, limit: Limit
) -> None:
    store = limit(1.0)
    emulator.script(model=MODEL, text="answer", latency=30)
    runs = [Run(task_id=f"task_{number}") for number in range(25)]
    uncapped = {"deferrable": True, "sync_wait": 0, "inputs": {"prompt": "question"}}
    waiting = dict.fromkeys(runs, "execute")
    while waiting:
        for run, method in list(waiting.items()):
            try:
                getattr(make(clock, **uncapped), method)(run.context())
                del waiting[run]
            except TaskDeferred as deferred:
                waiting[run] = deferred.method_name
        clock.ahead += 30

    assert len(emulator.bill) == 25
    assert used(store) == Usage(bill(emulator), 0)


def test_paid_requests_in_flight_are_limited_over_all_tasks(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit
) -> None:
    store = limit(max_paid_in_flight=1)
    emulator.script(model=MODEL, text="answer", latency=30)
    with pytest.raises(TaskDeferred):
        make(clock, deferrable=True, sync_wait=0).execute(run.context())
    assert store.in_flight("segmind_default") == 1
    waiting = make(clock)
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.ahead += seconds
        if len(slept) == 3:
            # The request that was in flight ends.
            clock.ahead += 30
            make(clock).execute_complete(run.context())

    clock.sleep = sleep  # type: ignore[method-assign]
    waiting.execute(Run(task_id="waiting").context())

    assert len(slept) >= 3
    assert len(emulator.posts()) == 2
    assert store.in_flight("segmind_default") == 0


async def test_a_deferrable_task_waits_for_a_place_in_flight_without_a_worker(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triggers, "_slots", {})
    monkeypatch.setattr(triggers, "SLOT_INTERVAL", 0.05)
    store = limit(max_paid_in_flight=1)
    emulator.script(model=MODEL, text="answer", latency=30)
    with pytest.raises(TaskDeferred):
        make(clock, deferrable=True, sync_wait=0).execute(run.context())

    with pytest.raises(TaskDeferred) as deferred:
        make(clock, deferrable=True).execute(Run(task_id="waiting").context())
    trigger, slept = deferred.value.trigger, list(clock.slept)
    trigger.not_before = 0.0
    waiting = asyncio.ensure_future(anext(aiter(trigger.run())))
    await asyncio.sleep(0.3)
    waited = not waiting.done()
    clock.ahead += 30
    await asyncio.to_thread(make(clock).execute_complete, run.context())
    await asyncio.wait_for(waiting, 30)
    emulator.unscript()
    task = make(clock, deferrable=True, sync_wait=60)
    await asyncio.to_thread(getattr(task, deferred.value.method_name), Run(task_id="waiting").context(), {})

    assert waited
    assert slept == []
    assert len(emulator.posts()) == 2
    assert store.in_flight("segmind_default") == 0


def test_a_task_that_waits_for_a_place_ends_at_its_execution_timeout(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit
) -> None:
    limit(max_paid_in_flight=1)
    emulator.script(model=MODEL, text="answer", latency=30)
    with pytest.raises(TaskDeferred):
        make(clock, deferrable=True, sync_wait=0).execute(run.context())
    waiting = {"deferrable": True, "execution_timeout": timedelta(seconds=600)}

    with pytest.raises(TaskDeferred) as deferred:
        make(clock, **waiting).execute(Run(task_id="waiting").context())
    late = Run(task_id="waiting", start_date=datetime.now(UTC) - timedelta(seconds=601))
    with pytest.raises(SegmindInFlightError, match="a retry checks again"):
        make(clock, **waiting).execute_after_pause(late.context())

    assert deferred.value.trigger.until == pytest.approx(time.time() + 600, abs=60)


def test_a_task_without_budgets_touches_no_store(
    emulator: SegmindEmulator, clock: Clock, run: Run, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit()
    monkeypatch.setattr(SqlBudgetStore, "_transaction", lambda *_, **__: pytest.fail("asked"))

    make(clock).execute(run.context())

    assert len(emulator.posts()) == 1


def test_the_hook_reserves_and_settles_as_well(emulator: SegmindEmulator, clock: Clock, limit: Limit) -> None:
    store = limit(BOUND)
    hook = hook_by(clock)

    submitted = hook.submit(MODEL, CAPPED)
    with pytest.raises(SegmindBudgetError, match="Nothing was sent"):
        hook.submit(MODEL, CAPPED)
    emulator.advance(60)
    hook.get_result(submitted.request_id)
    assert used(store) == Usage(bill(emulator), 0)
    hook.run_sync(MODEL, CAPPED)

    assert len(emulator.bill) == 2
    assert used(store) == Usage(bill(emulator), 0)


def test_two_threads_of_one_hook_reserve_each_for_itself(
    emulator: SegmindEmulator, clock: Clock, limit: Limit, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = limit(1.0)
    hook = hook_by(clock)
    both = threading.Barrier(2, timeout=30)
    reserve = BudgetGuard.reserve

    def reserved(*args: Any, **kwargs: Any) -> Any:
        made = reserve(*args, **kwargs)
        both.wait()
        return made

    monkeypatch.setattr(BudgetGuard, "reserve", reserved)
    threads = [threading.Thread(target=hook.submit, args=(MODEL, CAPPED)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(emulator.posts()) == len(store.open_reservations()) == 2
