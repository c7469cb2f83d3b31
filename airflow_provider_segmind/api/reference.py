"""How one task tells another which request it means."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from airflow_provider_segmind.api.protocol import path_segment
from airflow_provider_segmind.exceptions import SegmindConfigError


@dataclass(frozen=True, slots=True)
class RequestRef:
    """
    A request as another task names it.

    :param submitted_at: epoch seconds, None when only the id is known.
    :param landed: the manifest, when the other task has landed the result already.
    """

    request_id: str
    model: str | None = None
    submitted_at: float | None = None
    landed: dict[str, Any] | None = None

    @classmethod
    def read(cls, value: Any, submitted_at: Any = None) -> RequestRef:
        """
        Read what a template or an XCom gave: a request id, or the object that a submit task returns.

        The text of such an object, which Jinja makes of it, is read as well.

        :param submitted_at: an own statement of when it was submitted, ISO 8601 or epoch seconds.
        :raises SegmindConfigError: there is no usable request id in it.
        """
        given = value
        if isinstance(given, str) and given.strip().startswith("{"):
            try:
                given = ast.literal_eval(given.strip())
            except (ValueError, SyntaxError) as error:
                raise SegmindConfigError("'request_id' is neither an id nor the output of a submit task.") from error
        model = landed = None
        if isinstance(given, dict):
            model = given.get("model") if isinstance(given.get("model"), str) else None
            submitted_at = submitted_at or given.get("submitted_at")
            landed = given if isinstance(given.get("uri"), str) else None
            given = given.get("request_id")
        if isinstance(given, str):
            given = given.strip()
        path_segment(given, "request_id")
        moment = read_moment(submitted_at, "submitted_at")
        return cls(request_id=str(given), model=model, submitted_at=moment, landed=landed)


def read_moment(value: Any, field: str) -> float | None:
    """
    Read a moment: ISO 8601 (UTC when it names no zone), a datetime, or epoch seconds.

    :raises SegmindConfigError: it is something else.
    """
    if value is None or value == "":
        return None
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise SegmindConfigError(f"{field!r} is {value!r}; it must be ISO 8601 or epoch seconds.") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
