"""
What a trigger tells the task it wakes: plain JSON, checked where it arrives.

An event crosses two processes and a database, and the task may be a newer version of this package than the trigger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from airflow_provider_segmind import exceptions
from airflow_provider_segmind.chat.json_values import clean_text
from airflow_provider_segmind.exceptions import (
    SegmindAPIError,
    SegmindError,
    SegmindRequestError,
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
    SegmindRequestTimeoutError,
    SegmindStateError,
    shorten,
)
from airflow_provider_segmind.masking import mask_known

Status = Literal["success", "failed", "timeout", "error"]
_STATUSES = ("success", "failed", "timeout", "error")


class Payload(dict[str, Any]):
    """An event on its way. Airflow's triggerer logs its ``repr`` at INFO, where no answer and no tally belongs."""

    def __repr__(self) -> str:
        return repr({name: "(not logged)" if name in ("value", "carried") else value for name, value in self.items()})


@dataclass(frozen=True, slots=True)
class RequestEvent:
    """
    How waiting for a request ended.

    :param status: ``success``; ``failed`` (Segmind said so); ``timeout``; ``error`` (we could not find out).
    :param value: what XCom is to carry, when the trigger has landed or fetched the result.
    :param has_value: whether ``value`` means anything; a result can be null.
    """

    request_id: str
    status: Status
    value: Any = None
    has_value: bool = False
    error_class: str = ""
    message: str = ""
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the event's payload."""
        payload = Payload(request_id=self.request_id, status=self.status)
        if self.has_value:
            payload["value"] = self.value
        if self.status != "success":
            # PostgreSQL, which an event goes through, refuses what a server may have said.
            said = {"message": clean_text(self.message), "reason": clean_text(self.reason)}
            payload |= {"error_class": self.error_class, **said}
        return payload

    @classmethod
    def of_error(cls, request_id: str, error: BaseException) -> RequestEvent:
        """Describe an error."""
        status: Status = "error"
        if isinstance(error, SegmindRequestFailedError):
            status = "failed"
        elif isinstance(error, SegmindRequestTimeoutError):
            status = "timeout"
        name = type(error).__name__
        return cls(
            request_id=request_id,
            status=status,
            error_class=name,
            message=str(error) if isinstance(error, SegmindError) else shorten(mask_known(f"{name}: {error}")),
            reason=mask_known(str(getattr(error, "reason", ""))),
        )

    @classmethod
    def read(cls, payload: Any) -> RequestEvent:
        """
        Check a payload.

        :raises SegmindStateError: it is no event of ours.
        """
        if (
            not isinstance(payload, dict)
            or payload.get("status") not in _STATUSES
            or not isinstance(payload.get("request_id"), str)
        ):
            raise SegmindStateError(
                f"The trigger woke the task with {type(payload).__name__} that is no Segmind event. The request "
                "goes on; a retry of the task looks at it again."
            )
        return cls(
            request_id=payload["request_id"],
            status=cast(Status, payload["status"]),
            value=payload.get("value"),
            has_value="value" in payload,
            error_class=str(payload.get("error_class", "")),
            message=str(payload.get("message", "")),
            reason=str(payload.get("reason", "")),
        )

    def error(self) -> SegmindError | None:
        """Return the error to raise on the worker, None on success."""
        if self.status == "success":
            return None
        if self.status == "failed":
            return SegmindRequestFailedError(self.message, request_id=self.request_id, reason=self.reason)
        if self.status == "timeout":
            return SegmindRequestTimeoutError(self.message, request_id=self.request_id)
        if self.error_class == SegmindRequestExpiredError.__name__:
            return SegmindRequestExpiredError(self.message, request_id=self.request_id)
        kind = getattr(exceptions, self.error_class, None)
        if isinstance(kind, type) and issubclass(kind, SegmindAPIError):
            return kind(self.message, request_id=self.request_id)
        if isinstance(kind, type) and issubclass(kind, SegmindError) and not issubclass(kind, SegmindRequestError):
            try:
                return kind(self.message)
            except TypeError:
                return SegmindStateError(self.message)
        return SegmindStateError(f"Waiting for request {self.request_id!r} broke off: {self.message}")
