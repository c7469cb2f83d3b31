from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from airflow_provider_segmind.api.models import RequestRecord
from airflow_provider_segmind.bulk.history import Findings, Lost, find_lost
from airflow_provider_segmind.bulk.rows import digest
from airflow_provider_segmind.bulk.standing import Witness
from tests.bulk.events import claimed, mark

NOW = 1_700_000_000.0


class History:
    """Pages of records."""

    def __init__(self, *records: RequestRecord, per_page: int = 2) -> None:
        self.records, self.per_page, self.asked = records, per_page, []  # type: ignore[var-annotated]

    async def list_request_records(self, **filters: Any) -> list[RequestRecord]:
        self.asked.append(filters)
        start = (filters["page"] - 1) * self.per_page
        return list(self.records[start : start + self.per_page])


def record(request_id: str, text: str, **fields: Any) -> RequestRecord:
    return RequestRecord(request_id=request_id, model_name="m", request_body={"prompt": text, "t": 0}, **fields)


def body(text: str) -> str:
    return digest({"t": 0, "prompt": text}).hex()


def lost(number: int, text: str, at: float = NOW - 100, until: float = NOW - 50) -> dict[bytes, Lost]:
    return {mark(number): Lost(replace(claimed(number, at=at), body=body(text)), until)}


async def found(history: History, lost: dict[bytes, Lost], *witnesses: Witness, **options: Any) -> Findings:
    values = {"witnesses": witnesses, "now": NOW, "settles_after": 3600.0, **options}
    return await find_lost(history, "m", lost, **values)  # type: ignore[arg-type]


async def test_a_lost_request_is_known_by_its_body_whatever_the_order_of_its_names() -> None:
    history = History(record("x", "other"), record("y", "other"), record("z", "a"))
    findings = await found(history, lost(1, "a"))
    assert findings.found[mark(1)].request_id == "z"


async def test_no_further_page_is_read_once_all_are_found() -> None:
    history = History(record("x", "a"), *(record(f"o-{number}", "other") for number in range(9)))
    assert (await found(history, lost(1, "a"))).found
    assert len(history.asked) == 1


async def test_a_body_that_stands_in_the_history_as_text_is_read() -> None:
    row = record("z", "a").model_copy(update={"request_body": json.dumps({"prompt": "a", "t": 0})})
    assert (await found(History(row), lost(1, "a"))).found


async def test_a_request_of_another_model_is_not_taken() -> None:
    row = record("z", "a").model_copy(update={"model_name": "m-large"})
    assert not (await found(History(row), lost(1, "a"))).found


async def test_a_request_is_taken_for_one_row_only() -> None:
    findings = await found(History(record("z", "a")), {**lost(1, "a"), **lost(2, "a")})
    assert len(findings.found) == 1


async def test_a_known_request_is_never_taken_for_a_lost_one() -> None:
    witness = Witness("z", body("a"), NOW - 200)
    assert not (await found(History(record("z", "a")), lost(1, "a"), witness)).found
    assert not (await found(History(record("z", "a")), lost(1, "a"), former=frozenset({"z"}))).found


async def test_a_request_from_before_the_claim_is_not_taken() -> None:
    assert not (await found(History(record("z", "a", model_created=NOW - 5000)), lost(1, "a"))).found
    assert (await found(History(record("z", "a", model_created=NOW - 99)), lost(1, "a"))).found


async def test_a_witness_sent_after_the_lost_one_proves_that_it_never_arrived() -> None:
    history = History(record("w", "b"))
    findings = await found(history, lost(1, "a"), Witness("w", body("b"), NOW - 50))
    assert findings.absent == {mark(1)}


async def test_a_witness_sent_while_the_lost_one_was_on_its_way_proves_nothing() -> None:
    history = History(record("w", "b"))
    findings = await found(history, lost(1, "a"), Witness("w", body("b"), NOW - 51))
    assert findings.absent == set()


async def test_a_witness_whose_body_looks_different_proves_nothing() -> None:
    history = History(record("w", "b with defaults added"))
    findings = await found(history, lost(1, "a", at=NOW - 9000), Witness("w", body("b"), NOW - 10))
    assert findings.absent == set()


async def test_a_witness_that_is_not_there_yet_proves_nothing() -> None:
    assert (await found(History(), lost(1, "a"), Witness("w", body("b"), NOW - 10))).absent == set()


async def test_an_old_claim_is_absent_once_the_history_has_settled() -> None:
    findings = await found(History(record("w", "b")), lost(1, "a", at=NOW - 3601), Witness("w", body("b"), NOW - 5000))
    assert findings.absent == {mark(1)}
    assert (await found(History(), lost(1, "a", at=NOW - 3601))).absent == {mark(1)}
    assert (await found(History(), lost(1, "a", at=NOW - 3599))).absent == set()


async def test_a_history_too_long_to_read_proves_nothing() -> None:
    history = History(*[record(str(number), "b") for number in range(700)])
    findings = await found(history, lost(1, "a", at=NOW - 9000), Witness("3", body("b"), NOW))
    assert findings.absent == set()


async def test_the_history_is_asked_about_the_days_since_the_claim() -> None:
    history = History()
    await found(history, lost(1, "a", at=NOW - 2 * 86400))
    assert [(str(page["from_date"]), str(page["to_date"])) for page in history.asked] == [("2023-11-12", "2023-11-15")]
