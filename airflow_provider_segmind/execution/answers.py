"""Which answer cache a task uses, and what of a result can be kept in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from airflow_provider_segmind.answer_cache import Answer, AnswerCache
from airflow_provider_segmind.chat.replies import read_reply, reply_outcome
from airflow_provider_segmind.client.downloads import media_files
from airflow_provider_segmind.client.models import RequestResult, RequestStatus
from airflow_provider_segmind.client.submission import ResultManifest
from airflow_provider_segmind.compat import conf
from airflow_provider_segmind.exceptions import SegmindConfigError, shorten
from airflow_provider_segmind.result_storage import ResultDestination, StoredResult, stored_result
from airflow_provider_segmind.stores import locate

FILE_ELSEWHERE = "its files are only at Segmind, which drops them; set an output_path to store and reuse them"


def answers_for(reuse_answers: str | timedelta, answers_path: str | None) -> AnswerCache | None:
    """
    Return the answer cache of a task, None for a task that uses none.

    :param answers_path: its folder; ``[segmind] answers_path`` when None.
    :raises SegmindConfigError: there is no folder, or Airflow cannot reach a store of that kind here.
    """
    if reuse_answers == "never":
        return None
    path = answers_path or conf.get("segmind", "answers_path", fallback="")
    if not path:
        raise SegmindConfigError(
            f"'reuse_answers' is {reuse_answers!r}, and there is no folder for the answers: set answers_path, or "
            "[segmind] answers_path for all tasks. Nothing was sent."
        )
    max_age = reuse_answers.total_seconds() if isinstance(reuse_answers, timedelta) else math.inf
    return AnswerCache(locate_answers(path), max_age=max_age)


def locate_answers(path: str) -> Any:
    """
    Return the folder of an answer cache.

    :raises SegmindConfigError: Airflow cannot reach a store of that kind here.
    """
    try:
        return locate(path)
    except (ValueError, ImportError) as error:
        raise SegmindConfigError(
            f"'answers_path' is in a storage system that this Airflow does not support: {shorten(str(error))}. "
            "Nothing was sent."
        ) from error


def lasting_result(stored: StoredResult, request_id: str, model: str) -> tuple[bytes, ResultManifest | None] | str:
    """
    Return the part of a result that the answer cache keeps: its JSON, or the manifest of its files.

    A result whose files are at Segmind only will not be readable later, so it is not kept.

    :returns: why it is not kept, in words, instead.
    """
    if stored.recovered:
        return "it was reconstructed from the request history"
    manifest = stored.manifest
    if manifest is not None and not manifest.has_body:
        return b"", manifest
    whole = stored if manifest is None else stored_result(request_id, ResultDestination(max_xcom_bytes=None), manifest)
    result = None if whole is None else _result_of(whole.body, request_id)
    if result is None:
        return "its body cannot be read"
    if media_files(result, model, wanted=True):
        return FILE_ELSEWHERE
    outcome = reply_outcome(read_reply(result.to_json(), model=model))
    if outcome in ("blocked", "truncated", "invalid"):
        return f"it is {outcome}"
    return (result.encoded(), None) if manifest is None else (b"", manifest)


def recalled_result(answer: Answer, destination: ResultDestination) -> StoredResult | RequestResult | None:
    """Return the result of a cached answer, None when its files are gone."""
    if answer.manifest is not None:
        return stored_result(answer.request_id, destination, answer.manifest)
    return answer.result


def _result_of(body: Any, request_id: str) -> RequestResult | None:
    """Return the result whose body XCom carries: an object, or a string of JSON."""
    if isinstance(body, Mapping):
        known = {"status": RequestStatus.COMPLETED.value, **body, "request_id": request_id}
        return RequestResult.model_validate(known)
    try:
        return RequestResult.decoded(str(body).encode())
    except ValueError:
        return None
