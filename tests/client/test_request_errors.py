from __future__ import annotations

from airflow_provider_segmind.client.models import RequestState
from airflow_provider_segmind.client.poll_schedule import Pending
from airflow_provider_segmind.client.request_errors import expired_error, failed_error, timeout_error
from tests.support.clients import START


def test_messages_quote_ids_and_models_verbatim() -> None:
    what = Pending("R-81F", START, START + 60, model="Simple_Vector_Flux")
    state = RequestState(request_id="R-81F", status="FAILED")

    for error in (
        timeout_error(what, START + 60, "QUEUED"),
        expired_error(what, START + 3600),
        failed_error(state, what.model),
    ):
        assert "request 'R-81F' (model 'Simple_Vector_Flux')" in str(error)
        assert error.request_id == "R-81F"


def test_a_failure_without_a_reason_says_so_and_a_long_reason_is_cut() -> None:
    silent = failed_error(RequestState(request_id="r", status="FAILED"))
    chatty = failed_error(RequestState(request_id="r", status="FAILED", error="x" * 10_000))

    assert "as FAILED: 'no reason given'" in str(silent)
    assert len(str(chatty)) < 500
    assert len(chatty.reason) == 201
