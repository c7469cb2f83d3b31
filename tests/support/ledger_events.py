"""Events of the ledger with defaults for all fields that do not matter to a test."""

from __future__ import annotations

import hashlib

from hypothesis import strategies as st

from airflow_provider_segmind.enrichment.ledger.events import Claimed, Finished, Freed, Submitted
from airflow_provider_segmind.enrichment.outcomes import Outcome


def mark(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def claimed(
    number: int, attempt: int = 1, *, writer: str = "w", run: str = "r", at: float = 1.0, name: str | None = None
) -> Claimed:
    named = name or f"{writer}/{attempt}"
    return Claimed(
        fingerprint=mark(number), attempt=attempt, at=at, run=run, writer=writer, model="m", body="b", id=named
    )


def submitted(
    number: int, attempt: int = 1, *, request_id: str | None = None, at: float = 2.0, claim: str | None = None
) -> Submitted:
    named = request_id or f"q{number}-{attempt}"
    return Submitted(fingerprint=mark(number), attempt=attempt, at=at, request_id=named, claim=claim or f"w/{attempt}")


def freed(number: int, attempt: int = 1, *, writer: str = "w", at: float = 2.0, claim: str | None = None) -> Freed:
    return Freed(fingerprint=mark(number), attempt=attempt, at=at, claim=claim or f"{writer}/{attempt}")


def finished(
    number: int,
    attempt: int = 1,
    *,
    outcome: Outcome = Outcome.SUCCESS,
    run: str = "r",
    cost: float | None = 0.5,
    at: float = 3.0,
    answer: object = None,
    charged: float = 0.0,
) -> Finished:
    return Finished(
        fingerprint=mark(number),
        attempt=attempt,
        at=at,
        run=run,
        model="m",
        outcome=outcome,
        answer=answer,
        request_ids=(f"q{number}-{attempt}",),
        cost=cost,
        tokens=7,
        seconds=1.5,
        billed=cost is not None,
        charged=charged,
    )


_NUMBERS = st.integers(0, 2)
_ATTEMPTS = st.integers(1, 3)
_WRITERS = st.sampled_from("ab")
EVENTS = st.one_of(
    st.builds(claimed, _NUMBERS, _ATTEMPTS, writer=_WRITERS),
    st.builds(lambda n, a, q: submitted(n, a, request_id=q), _NUMBERS, _ATTEMPTS, st.sampled_from("xy")),
    st.builds(freed, _NUMBERS, _ATTEMPTS, writer=_WRITERS),
    st.builds(
        finished,
        _NUMBERS,
        _ATTEMPTS,
        outcome=st.sampled_from([Outcome.SUCCESS, Outcome.FAILED, Outcome.INVALID]),
        at=st.sampled_from([3.0, 4.0]),
        charged=st.sampled_from([0.0, 0.5]),
    ),
)
"""Any event, of few rows, attempts and writers."""
