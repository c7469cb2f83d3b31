"""
The event with which a trigger resumes its task: plain JSON, validated on arrival.

An event crosses two processes and a database, and the task may run a newer version of this package than the trigger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from airflow_provider_segmind import exceptions
from airflow_provider_segmind.chat.json_values import clean_text
from airflow_provider_segmind.client.submission import ResultManifest
from airflow_provider_segmind.exceptions import (
    SegmindAPIError,
    SegmindError,
    SegmindRequestError,
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
    SegmindRequestTimeoutError,
    SegmindStateError,
    shorten,
    type_name,
)
from airflow_provider_segmind.masking import mask_known
from airflow_provider_segmind.result_storage import StoredResult

Status = Literal["success", "failed", "timeout", "error"]
HIDDEN = ("value", "manifest", "resume_state")
"""Fields of an event that are not logged."""


class Payload(dict[str, Any]):
    """
    The payload of an event. Airflow's triggerer logs its ``repr`` at INFO, which must contain no result and no counts.
    """

    def __repr__(self) -> str:
        return repr({name: "(not logged)" if name in HIDDEN else value for name, value in self.items()})


@dataclass(frozen=True, slots=True)
class RequestEvent:
    """
    How waiting for a request ended.

    :param status: ``success``; ``failed`` (Segmind reports FAILED); ``timeout``; ``error`` (the outcome is unknown).
    :param result: when the trigger has fetched or stored it; a body is an object.
    :param submitted_at: epoch seconds from which the trigger counted the request's age; of an error only.
    """

    request_id: str
    status: Status
    result: StoredResult | None = None
    error_class: str = ""
    message: str = ""
    reason: str = ""
    submitted_at: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the event's payload."""
        payload = Payload(request_id=self.request_id, status=self.status)
        if self.result is not None:
            payload["value" if self.result.manifest is None else "manifest"] = self.result.for_xcom
        if self.status != "success":
            # An event goes through PostgreSQL, which refuses characters that a server's message may contain.
            payload |= {
                "error_class": self.error_class,
                "message": clean_text(self.message),
                "reason": clean_text(self.reason),
                "submitted_at": self.submitted_at,
            }
        return payload

    @classmethod
    def of_error(cls, request_id: str, error: BaseException, submitted_at: float | None = None) -> RequestEvent:
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
            submitted_at=submitted_at,
        )

    @classmethod
    def read(cls, payload: Any) -> RequestEvent:
        """
        Read and validate a payload.

        :raises SegmindStateError: it is not one of our events.
        """
        if (
            not isinstance(payload, dict)
            or payload.get("status") not in get_args(Status)
            or not isinstance(payload.get("request_id"), str)
        ):
            raise SegmindStateError(
                f"The trigger resumed the task with {type_name(payload)} that is not a Segmind event. The "
                "request continues; a retry of the task polls it again."
            )
        value, manifest = payload.get("value"), ResultManifest.from_json(payload.get("manifest"))
        has_result = manifest is not None or isinstance(value, dict)
        submitted_at = payload.get("submitted_at")
        return cls(
            request_id=payload["request_id"],
            status=cast(Status, payload["status"]),
            result=StoredResult(None if manifest else value, manifest) if has_result else None,
            error_class=str(payload.get("error_class", "")),
            message=str(payload.get("message", "")),
            reason=str(payload.get("reason", "")),
            submitted_at=float(submitted_at) if isinstance(submitted_at, int | float) else None,
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
        return SegmindStateError(f"Waiting for request {self.request_id!r} failed: {self.message}")
