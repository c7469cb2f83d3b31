from __future__ import annotations

import json
from collections import UserList
from typing import Any

import pytest

from airflow_provider_segmind.client.submission import RequestRef, read_timestamp
from airflow_provider_segmind.exceptions import SegmindConfigError

HANDED = {"request_id": "r-1", "model": "m", "submitted_at": "2027-01-15T08:00:00+00:00"}


@pytest.mark.parametrize(
    "given", [HANDED, str(HANDED), f"  {HANDED} ", json.dumps(HANDED), json.dumps(HANDED, indent=2)]
)
def test_the_output_of_a_submit_task_is_read_as_object_and_as_string(given: Any) -> None:
    assert RequestRef.read(given) == RequestRef("r-1", "m", 1_800_000_000.0)


def test_json_without_a_time_is_read() -> None:
    assert RequestRef.read('{"request_id": "r-1", "model": null, "submitted_at": null}') == RequestRef("r-1")


def test_a_bare_id_has_no_age() -> None:
    assert RequestRef.read(" r-1 ") == RequestRef("r-1")


@pytest.mark.parametrize("given", [12345, {"request_id": 12345}, '{"request_id": 12345}'])
def test_an_id_of_digits_may_be_a_number(given: Any) -> None:
    assert RequestRef.read(given) == RequestRef("12345")


@pytest.mark.parametrize(
    "given", ["", None, True, 1.5, -1, {}, "{", "{" * 100_000, "../x", "a b", {"request_id": None}, ["r-1"]]
)
def test_what_names_no_request_is_refused(given: Any) -> None:
    with pytest.raises(SegmindConfigError, match="request_id"):
        RequestRef.read(given)


@pytest.mark.parametrize("given", [["r-1"], ("r-1", "r-2"), [HANDED], UserList([HANDED])])
def test_several_requests_are_not_one(given: Any) -> None:
    with pytest.raises(SegmindConfigError, match=r"map this task, too, with expand\(request_id=…\)"):
        RequestRef.read(given)


@pytest.mark.parametrize("given", ["None", " None ", "", None, {"request_id": "None"}])
def test_a_template_that_found_no_xcom_is_not_asked_for(given: Any) -> None:
    with pytest.raises(SegmindConfigError, match=r"has pushed no such XCom\. Nothing was sent"):
        RequestRef.read(given)


@pytest.mark.parametrize("given", ["yesterday", [], True, 1_800_000_000_000, 10**400, float("nan"), 1e300])
def test_what_is_not_a_time_is_refused(given: Any) -> None:
    with pytest.raises(SegmindConfigError, match="submitted_at"):
        read_timestamp(given, "submitted_at")
