"""A submission against a model of it: whatever happens in whatever order, one task instance is one paid request."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from airflow_provider_segmind.client.client import ClientConfig, SegmindClient
from airflow_provider_segmind.client.http_library import httpx
from airflow_provider_segmind.client.submission import SubmissionRecord
from airflow_provider_segmind.exceptions import (
    SegmindConfigError,
    SegmindError,
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
)
from airflow_provider_segmind.execution.request import RequestExecution, RequestSettings
from airflow_provider_segmind.task_state import TaskState
from tests.support.examples import examples

START = 1_800_000_000.0
LOG = logging.getLogger("test")
LOG.addHandler(logging.NullHandler())


class Killed(BaseException):
    """The worker died."""


class Segmind:
    """The paid part of Segmind: accepts, remembers, bills, and tells its history late."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.requests: list[dict[str, Any]] = []
        self.history_delay = 0.0
        self.history_down = False
        self.history_status = 200
        self.next_post = "accept"
        self.skew = 0.0

    @property
    def billed(self) -> list[dict[str, Any]]:
        return [each for each in self.requests if each["status"] != "FAILED"]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            return self._post(request)
        if "request-history" in request.url.path:
            if self.history_down:
                raise httpx.ConnectError("no route")
            if self.history_status != 200:
                return httpx.Response(self.history_status, json={"error": "no"})
            seen = [each for each in self.requests if self.world.now >= each["at"] + self.history_delay]
            start = (int(request.url.params["page"]) - 1) * 100
            return httpx.Response(200, json={"data": [self._row(each) for each in seen[::-1][start : start + 100]]})
        found = next((each for each in self.requests if each["id"] in request.url.path), None)
        if found is None or self.world.now > found["at"] + 3600:
            return httpx.Response(404, json={"error": "Request not found"})
        code = 422 if found["status"] == "FAILED" else 200
        return httpx.Response(code, json={"request_id": found["id"], "status": found["status"], "error": "model broke"})

    def _post(self, request: httpx.Request) -> httpx.Response:
        what, self.next_post = self.next_post, "accept"
        self.world.posts += 1
        if what == "refuse":
            return httpx.Response(402, json={"error": "Insufficient credits"})
        if what == "unreachable":
            raise httpx.ConnectError("refused")
        if what == "kill before":
            raise Killed
        if what == "lose before":
            raise httpx.ReadError("reset")
        made = {"id": f"r-{len(self.requests)}", "at": self.world.now, "status": "PROCESSING", "body": request.content}
        self.requests.append(made)
        if what == "kill after":
            raise Killed
        if what == "lose after":
            raise httpx.ReadTimeout("slow")
        if what == "500 after":
            return httpx.Response(500, text="<html>oops</html>")
        return httpx.Response(200, json={"request_id": made["id"], "status": "QUEUED"})

    def _row(self, each: dict[str, Any]) -> dict[str, Any]:
        created = datetime.fromtimestamp(each["at"] + self.skew, UTC).isoformat()
        return {
            "request_id": each["id"],
            "model_name": "a-model",
            "model_status": each["status"],
            "request_body": json.loads(each["body"]),
            "model_created": created,
        }


class Memory(TaskState):
    """A store that a worker can die in and that can be down."""

    name = "memory"

    def __init__(self, world: World) -> None:
        self.world = world
        self.value: str | None = None

    def read(self) -> SubmissionRecord | None:
        if self.world.store_down:
            raise ConnectionError("the store is down")
        return None if self.value is None else SubmissionRecord.from_json(json.loads(self.value))

    def write(self, record: SubmissionRecord) -> None:
        if self.world.die_in_write == "before" and self.world.dies_at(record):
            raise Killed
        if self.world.store_down:
            raise ConnectionError("the store is down")
        self.value = json.dumps(record.to_json())
        if self.world.die_in_write == "after" and self.world.dies_at(record):
            raise Killed


class World:
    """Time, the service, the store, and what is to go wrong next."""

    def __init__(self) -> None:
        self.now = START
        self.posts = 0
        self.store_down = False
        self.die_in_write = ""
        self.die_at = ""
        self.segmind = Segmind(self)
        self.state = Memory(self)

    def dies_at(self, record: SubmissionRecord) -> bool:
        return self.die_at == ("id" if record.request_id else "intent")

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def execution(
        self,
        inputs: dict[str, Any],
        settings: RequestSettings,
        record: SubmissionRecord | None = None,
        transport: Callable[[httpx.Request], httpx.Response] | None = None,
    ) -> RequestExecution:
        client = SegmindClient(
            ClientConfig(api_key="SG_x"),
            transport=httpx.MockTransport(transport or self.segmind),
            sleep=self.sleep,
            clock=lambda: self.now,
        )
        made = RequestExecution(
            settings,
            lambda: inputs,
            client=client,
            state=self.state,
            log=LOG,
            defer=never,
            clock=lambda: self.now,
            sleep=self.sleep,
        )
        made._record = record
        return made


def never(**_: Any) -> NoReturn:
    pytest.fail("it deferred")


def policies(**given: Any) -> RequestSettings:
    return RequestSettings(model="a-model", **given)


TROUBLE = st.sampled_from(
    ["accept", "refuse", "unreachable", "kill before", "kill after", "lose before", "lose after", "500 after"]
)
DEATHS = st.sampled_from([("", ""), ("before", "intent"), ("after", "intent"), ("before", "id"), ("after", "id")])


class OneTaskInstance(RuleBasedStateMachine):
    """Tries of one task instance, with every kind of trouble between and inside them."""

    @initialize(
        on_stale=st.sampled_from(["resubmit", "fail"]),
        on_unknown=st.sampled_from(["fail", "resubmit", "wait"]),
        on_failed=st.sampled_from(["fail", "resubmit"]),
        on_expired=st.sampled_from(["fail", "resubmit"]),
        delay=st.sampled_from([0.0, 20.0, 7200.0]),
    )
    def begin(self, on_stale: Any, on_unknown: Any, on_failed: Any, on_expired: Any, delay: float) -> None:
        self.world = World()
        self.world.segmind.history_delay = delay
        self.policies = policies(on_stale=on_stale, on_unknown=on_unknown, on_failed=on_failed, on_expired=on_expired)
        self.inputs = {"prompt": "one"}
        self.allowed = 1
        self.record: SubmissionRecord | None = None

    @rule(trouble=TROUBLE, death=DEATHS, store_down=st.booleans(), replace_failed=st.booleans())
    def try_it(self, trouble: str, death: tuple[str, str], store_down: bool, replace_failed: bool) -> None:
        """One try (a retry and a clear look the same to the store), which ends well, badly or by a kill."""
        world = self.world
        world.segmind.next_post, (world.die_in_write, world.die_at) = trouble, death
        world.store_down = store_down
        before = len(world.segmind.billed)
        try:
            self.record = world.execution(dict(self.inputs), self.policies).submit(replace_failed=replace_failed)
        except (SegmindError, ConnectionError, Killed):
            self.record = None
        world.die_in_write = world.die_at = ""
        world.segmind.next_post = "accept"
        if store_down:
            # Unreadable is not absent.
            assert len(world.segmind.billed) == before
        world.store_down = False
        # on_unknown='resubmit' pays once more for each POST whose response was not recorded.
        unrecorded = ("after" in trouble or trouble == "lose before") + (death[1] == "id")
        self.allowed += unrecorded if self.policies.on_unknown == "resubmit" else 0

    @rule()
    def a_quiet_try(self) -> None:
        self.try_it("accept", ("", ""), False, False)

    @precondition(lambda self: self.record is not None)
    @rule(store_down=st.booleans())
    def the_request_fails(self, store_down: bool) -> None:
        """Segmind reports FAILED; a waiting task learns of it and follows its policy."""
        record = self.record
        assert record is not None
        request = next(each for each in self.world.segmind.requests if each["id"] == record.request_id)
        if request["status"] != "PROCESSING" or self.world.now > request["at"] + 3600:
            return
        request["status"] = "FAILED"
        error = SegmindRequestFailedError("FAILED", request_id=str(record.request_id))
        self.world.store_down = store_down
        try:
            execution = self.world.execution(dict(self.inputs), self.policies, record)
            execution.after_failure(error)
            self.record = execution.record
        except (SegmindRequestFailedError, ConnectionError):
            self.record = None
        self.world.store_down = False

    @precondition(lambda self: self.record is not None and self.policies.on_expired == "resubmit")
    @rule()
    def the_result_expires(self) -> None:
        record = self.record
        assert record is not None
        self.world.now += 4000
        error = SegmindRequestExpiredError("gone", request_id=str(record.request_id))
        before = len(self.world.segmind.billed)
        try:
            execution = self.world.execution(dict(self.inputs), self.policies, record)
            execution.submit_again(error, "Pays twice.")
            self.record = execution.record
        except SegmindRequestExpiredError:
            self.record = None
        self.allowed += len(self.world.segmind.billed) - max(1, before)

    @rule(seconds=st.sampled_from([1.0, 60.0, 1000.0, 4000.0, 8000.0]))
    def time_passes(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(down=st.booleans())
    def the_history_goes_down_or_comes_back(self, down: bool) -> None:
        self.world.segmind.history_down = down

    @rule(prompt=st.sampled_from(["one", "two"]))
    def the_inputs_change(self, prompt: str) -> None:
        if {"prompt": prompt} != self.inputs:
            self.allowed += self.policies.on_stale == "resubmit"
            self.record = None
        self.inputs = {"prompt": prompt}

    @invariant()
    def never_more_is_paid_than_a_policy_asked_for(self) -> None:
        if hasattr(self, "world"):
            assert len(self.world.segmind.billed) <= self.allowed, self.world.segmind.requests

    @invariant()
    def what_a_try_returns_is_a_request_that_exists_and_fits(self) -> None:
        if getattr(self, "record", None) is None:
            return
        found = [each for each in self.world.segmind.requests if each["id"] == self.record.request_id]
        assert len(found) == 1
        assert json.loads(found[0]["body"]) == self.inputs

    @invariant()
    def what_may_be_billed_is_on_record(self) -> None:
        """By its id, or by the time of its POST; no policy makes a later try forget it."""
        kept = self.world.state.read() if hasattr(self, "world") else None
        if kept is not None:
            billed = {each["id"] for each in self.world.segmind.billed}
            assert len(billed - set(kept.all_ids)) <= len(kept.all_given_up), kept

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.segmind.history_down = False


TestOneTaskInstance = OneTaskInstance.TestCase
TestOneTaskInstance.settings = settings(
    max_examples=examples(300), stateful_step_count=12, suppress_health_check=list(HealthCheck)
)


@pytest.fixture
def world() -> World:
    return World()


def go(world: World, **given: Any) -> SubmissionRecord:
    return world.execution({"prompt": "one"}, policies(**given)).submit()


@pytest.mark.parametrize(
    ("post", "death"),
    [
        ("accept", ("before", "intent")),
        ("accept", ("after", "intent")),
        ("kill before", ("", "")),
        ("kill after", ("", "")),
        ("accept", ("before", "id")),
        ("accept", ("after", "id")),
    ],
)
def test_a_worker_killed_at_any_step_leaves_one_paid_request(world: World, post: str, death: tuple[str, str]) -> None:
    world.segmind.next_post, (world.die_in_write, world.die_at) = post, death
    with pytest.raises(Killed):
        go(world)
    world.die_at = ""

    arrived = len(world.segmind.requests) == 1
    nothing_recorded = world.state.value is None
    if arrived or nothing_recorded:
        assert go(world).request_id == "r-0"
        assert len(world.segmind.requests) == 1
    else:
        # An intent without a row: the outcome is unknown, so nothing is sent and the message says so.
        with pytest.raises(SegmindError, match="Nothing was sent again"):
            go(world)
        assert world.segmind.requests == []


def test_a_retry_says_what_was_given_up_before_it_and_may_be_billed(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.segmind.history_delay = 1e9
    world.segmind.next_post = "lose after"
    record = go(world, on_unknown="resubmit")
    assert [one.intent_at for one in record.given_up] == [START]
    said = "An earlier POST of this task (2027-01-15T08:00:00+00:00), of unknown outcome, was replaced by another one"
    assert said not in caplog.text

    for _ in range(2):
        caplog.clear()
        assert go(world, on_unknown="resubmit").given_up == record.given_up
        assert said in caplog.text

    world.segmind.requests[1]["status"] = "FAILED"
    execution = world.execution({"prompt": "one"}, policies(on_failed="resubmit"), record)
    execution.after_failure(SegmindRequestFailedError("FAILED", request_id="r-1"))
    assert execution.record.given_up == record.given_up


def test_a_refusal_after_a_lost_post_does_not_say_that_nothing_was_billed(world: World) -> None:
    world.segmind.history_delay = 1e9

    def lose_then_refuse(request: httpx.Request) -> httpx.Response:
        world.segmind.next_post = "refuse" if world.posts else "lose after"
        return Segmind.__call__(world.segmind, request)

    said = "Nothing more was billed; a POST before it, whose outcome is unknown, may be billed; the account cannot pay"
    with pytest.raises(SegmindError, match=said):
        world.execution({"prompt": "one"}, policies(on_unknown="resubmit"), transport=lose_then_refuse).submit()


def test_resubmitting_an_unknown_post_ends_after_two_more(world: World) -> None:
    world.segmind.history_delay = 1e9

    def lose_all(request: httpx.Request) -> httpx.Response:
        world.segmind.next_post = "lose after"
        return Segmind.__call__(world.segmind, request)

    settings = policies(on_unknown="resubmit")
    with pytest.raises(SegmindError, match=r"has submitted again 2 times already. 2 earlier POSTs of this task"):
        world.execution({"prompt": "one"}, settings, transport=lose_all).submit()
    assert len(world.segmind.requests) == 3


@pytest.mark.parametrize("policy", ["fail", "wait", "resubmit"])
@pytest.mark.parametrize("skew", [300.0, -300.0, 1500.0, -1500.0])
def test_a_clock_minutes_ahead_or_behind_pays_nothing_twice(world: World, skew: float, policy: str) -> None:
    world.segmind.next_post, world.segmind.skew = "lose after", skew
    if skew > 0:
        # The row itself tells that Segmind's clock is ahead.
        assert go(world, on_unknown=policy).request_id == "r-0"
    else:
        with pytest.raises(SegmindError, match=r"request 'r-0' with the same inputs.*check the clock"):
            go(world, on_unknown=policy)
    assert len(world.segmind.requests) == 1


def test_a_history_that_cannot_be_read_is_not_a_history_without_the_request(world: World) -> None:
    world.segmind.next_post, world.segmind.history_down = "lose after", True
    with pytest.raises(SegmindError, match="history cannot be read") as caught:
        go(world, on_unknown="resubmit")
    assert caught.value.retryable
    assert len(world.segmind.requests) == 1

    world.segmind.history_down = False
    assert go(world, on_unknown="resubmit").request_id == "r-0"
    assert len(world.segmind.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_history_that_refuses_is_not_a_history_without_the_request(world: World, status: int) -> None:
    world.segmind.next_post, world.segmind.history_status = "lose after", status
    with pytest.raises(SegmindError, match=r"cannot be read.*does not submit again while that is undecided") as caught:
        go(world, on_unknown="resubmit")
    assert not caught.value.retryable
    assert world.posts == 1

    world.segmind.history_status = 200
    assert go(world, on_unknown="resubmit").request_id == "r-0"
    assert world.posts == 1


@pytest.mark.parametrize("status", [404, 405, 410])
def test_without_a_history_the_request_is_submitted_again_only_if_the_task_says_so(world: World, status: int) -> None:
    world.segmind.next_post, world.segmind.history_status = "lose after", status
    with pytest.raises(SegmindError, match=r"cannot be read.*on_unknown='resubmit' submits again, which pays twice"):
        go(world)
    assert world.posts == 1

    go(world, on_unknown="resubmit")
    assert world.posts == 2


def test_waiting_for_the_history_finds_a_row_that_comes_late_and_pays_once(world: World) -> None:
    world.segmind.next_post, world.segmind.history_delay = "lose after", 1800.0
    assert go(world, on_unknown="wait").request_id == "r-0"
    assert world.posts == 1
    assert 1800 <= world.now - START <= 2400


def test_waiting_for_the_history_ends_and_says_what_a_resubmit_would_risk(world: World) -> None:
    world.segmind.next_post, world.segmind.history_delay = "lose after", 7200.0
    with pytest.raises(SegmindError, match="pays twice") as caught:
        go(world, on_unknown="wait", timeout=600.0)
    assert not caught.value.retryable
    assert world.posts == 1
    assert "2027-01-15T08:00:00" in str(caught.value)
    assert json.loads(world.state.value or "")["fingerprint"]["inputs"][:16] in str(caught.value)


def test_a_lost_post_is_not_taken_for_the_failed_request_before_it(world: World) -> None:
    first = go(world)
    world.segmind.requests[0]["status"] = "FAILED"
    failed = SegmindRequestFailedError("FAILED", request_id="r-0")
    world.segmind.next_post = "lose after"
    execution = world.execution({"prompt": "one"}, policies(on_failed="resubmit"), first)
    execution.after_failure(failed)
    assert execution.request_id == "r-1"
    assert execution.record.previous_ids == ("r-0",)
    assert len(world.segmind.billed) == 1


def test_a_lost_post_is_not_taken_for_the_request_of_the_earlier_inputs(world: World) -> None:
    world.execution({"prompt": "one", "seed": 1}, policies()).submit()
    world.segmind.next_post = "lose before"
    with pytest.raises(SegmindError, match="history does not show it"):
        go(world)


def test_a_changed_task_names_what_changed_and_stops_where_on_stale_says_so(world: World) -> None:
    go(world)
    with pytest.raises(SegmindConfigError, match="'inputs' changed since an earlier try") as caught:
        world.execution({"prompt": "two"}, policies(on_stale="fail")).submit()
    assert "two" not in str(caught.value)
    assert len(world.segmind.requests) == 1


def test_a_store_that_cannot_be_read_stops_the_task_before_anything_is_sent(world: World) -> None:
    world.store_down = True
    with pytest.raises(ConnectionError):
        go(world)
    assert world.posts == 0


def test_a_request_that_cannot_be_recorded_is_still_continued(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def accept_and_lose_the_store(request: httpx.Request) -> httpx.Response:
        answer = Segmind.__call__(world.segmind, request)
        world.store_down = request.method == "POST"
        return answer

    execution = world.execution({"prompt": "one"}, policies(), transport=accept_and_lose_the_store)
    assert execution.submit().request_id == "r-0"
    assert "Could not record request r-0" in caplog.text

    world.store_down = False
    assert go(world).request_id == "r-0"
    assert len(world.segmind.requests) == 1


def test_a_task_that_does_not_wait_submits_anew_once_its_request_has_failed(world: World) -> None:
    go(world)
    world.segmind.requests[0]["status"] = "FAILED"
    assert world.execution({"prompt": "one"}, policies()).submit(replace_failed=True).request_id == "r-1"
    assert len(world.segmind.billed) == 1


def test_an_event_completes_a_record_whose_id_could_not_be_written(world: World) -> None:
    world.die_in_write, world.die_at = "before", "id"
    with pytest.raises(Killed):
        go(world)
    world.die_at = ""
    record = world.execution({"prompt": "one"}, policies()).reattach("r-0")
    assert record.request_id == "r-0"
    assert go(world).request_id == "r-0"
    assert world.posts == 1
