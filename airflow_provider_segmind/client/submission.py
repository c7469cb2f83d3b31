"""
Pure: one submission for one task instance, however often the task is tried.

This module has the record of what was submitted, the decision about what a try has to do, and the ways in which tasks
refer to a request and to the files of its result.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Literal, Self

from airflow_provider_segmind.client.endpoints import path_segment
from airflow_provider_segmind.defaults import OnStale
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindStateError, type_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultManifest:
    """
    A result that is stored as files.

    :param uris: of the files; at least one.
    :param size: bytes of all of them.
    """

    request_id: str
    model: str | None = None
    status: str = "COMPLETED"
    metrics: dict[str, Any] = field(default_factory=dict)
    uris: tuple[str, ...]
    size: int = 0

    @property
    def has_body(self) -> bool:
        """Whether the file is the body of the result, as JSON; otherwise the files are those that the body names."""
        return self.uris[0].endswith(".json")

    @classmethod
    def from_json(cls, value: Any) -> Self | None:
        """Read what :meth:`to_json` returned and XCom or a store gave back; None when it is something else."""
        if not isinstance(value, Mapping) or not isinstance(value.get("uri"), str):
            return None
        given = value.get("uris")
        uris = [uri for uri in given if isinstance(uri, str)] if isinstance(given, (list, tuple)) else []
        metrics = value.get("metrics")
        return cls(
            request_id=str(value.get("request_id", "")),
            model=value.get("model"),
            status=str(value.get("status", "COMPLETED")),
            metrics=dict(metrics) if isinstance(metrics, Mapping) else {},
            uris=tuple(uris or [value["uri"]]),
            size=value.get("bytes", 0),
        )

    def to_json(self) -> dict[str, Any]:
        """Return what XCom carries of it."""
        return {
            "request_id": self.request_id,
            "model": self.model,
            "status": self.status,
            "metrics": self.metrics,
            "uri": self.uris[0],
            "uris": list(self.uris),
            "bytes": self.size,
        }


@dataclass(frozen=True, slots=True)
class RequestRef:
    """
    A request as another task refers to it.

    :param submitted_at: epoch seconds, None when only the id is known.
    :param manifest: when the other task has stored the result already.
    :param submitted_by: the names of the task that submitted it, for the spend record; None where there is none.
    """

    request_id: str
    model: str | None = None
    submitted_at: float | None = None
    manifest: ResultManifest | None = None
    submitted_by: Mapping[str, Any] | None = None

    @classmethod
    def read(cls, value: Any) -> RequestRef:
        """
        Read what a template or an XCom gave: a request id, or the object that a submit task returns. Its
        ``submitted_at`` is ISO 8601 or epoch seconds.

        The string that Jinja makes of such an object is read as well, with or without its filter ``tojson``.

        :raises SegmindConfigError: it contains no usable request id.
        """
        given = value
        if isinstance(given, str) and given.strip().startswith("{"):
            given = _object_in(given.strip())
        model = submitted_at = manifest = submitted_by = None
        if isinstance(given, dict):
            submitted_by = _task_names(given.get("submitted_by"))
            model = given.get("model") if isinstance(given.get("model"), str) else None
            submitted_at = given.get("submitted_at")
            manifest = ResultManifest.from_json(given)
            given = given.get("request_id")
        if isinstance(given, str) or (type(given) is int and 0 <= given < 10**200):
            # With ``render_template_as_native_obj`` a template makes a number of an id that has only digits.
            given = str(given).strip()
        if given in (None, "", "None"):
            raise SegmindConfigError(
                f"'request_id' is {given!r}: the task that should provide it has pushed no such XCom. Nothing was sent."
            )
        if isinstance(given, Sequence) and not isinstance(given, str | bytes):
            # The output of a mapped task is a sequence of Airflow's own.
            raise SegmindConfigError(
                "'request_id' is a sequence, as of a mapped task; it must be one id: map this task, too, with "
                "expand(request_id=…). Nothing was sent."
            )
        path_segment(given, "request_id")
        timestamp = read_timestamp(submitted_at, "submitted_at")
        return cls(str(given), model, timestamp, manifest, submitted_by)

    def to_json(self) -> dict[str, Any]:
        """Return what XCom carries of a request that was submitted."""
        timestamp = None if self.submitted_at is None else iso(self.submitted_at)
        task = {} if self.submitted_by is None else {"submitted_by": dict(self.submitted_by)}
        return {"request_id": self.request_id, "model": self.model, "submitted_at": timestamp, **task}


def _object_in(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    raise SegmindConfigError("'request_id' is neither an id nor the output of a submit task. Nothing was sent.")


_TASK_NAMES = {"dag_id": str, "task_id": str, "run_id": str, "map_index": int, "try_number": int}


def _task_names(value: Any) -> Mapping[str, Any] | None:
    """Return the names of a task instance, None if these are others."""
    if not isinstance(value, Mapping) or value.keys() != _TASK_NAMES.keys():
        return None
    return value if all(isinstance(value[name], kind) for name, kind in _TASK_NAMES.items()) else None


def read_timestamp(value: Any, field: str) -> float | None:
    """
    Read a point in time: ISO 8601 (UTC when it names no zone), a datetime, or epoch seconds.

    :raises SegmindConfigError: it is something else.
    """
    if value is None or value == "":
        return None
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            # Milliseconds, which other services use, are beyond the years that can be written.
            datetime.fromtimestamp(value, UTC)
            return float(value)
        parsed = value if isinstance(value, datetime) else datetime.fromisoformat(value)
    except (TypeError, ValueError, OverflowError, OSError):
        raise SegmindConfigError(f"{field!r} is {value!r}; it must be ISO 8601 or epoch seconds.") from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """
    What a submitted request was built from; if it changes, the result is no longer that of the task.

    :param inputs: SHA-256 of the canonical JSON of the body, so that no prompt is stored.
    :param connection: the connection's id and base URL; a rotated key is still the same account.
    """

    model: str
    inputs: str
    connection: str

    @classmethod
    def of(cls, *, model: str, inputs: Mapping[str, Any], connection: str) -> Self:
        """Return the fingerprint of what is about to be submitted."""
        return cls(model=model, inputs=json_digest(inputs), connection=connection)

    def changes_from(self, earlier: Fingerprint) -> list[str]:
        """Name what differs from ``earlier``."""
        return [name for name in ("model", "inputs", "connection") if getattr(self, name) != getattr(earlier, name)]


def json_digest(value: Any) -> str:
    """
    Return the SHA-256 of the canonical JSON of a body.

    :raises SegmindConfigError: it cannot be written as JSON.
    """
    try:
        canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    except TypeError:
        # Values of other types are written as strings here; they are refused when the body is encoded.
        problem = "an object in it has keys that are not strings"
    except (ValueError, RecursionError) as error:
        problem = str(error)
    else:
        return text_digest(canonical).hex()
    raise SegmindConfigError(f"'inputs' cannot be written as JSON: {problem}. Nothing was sent.")


def text_digest(canonical: str) -> bytes:
    """Return the SHA-256 of canonical JSON."""
    # A lone surrogate cannot be sent, but what is compared with a body may contain one.
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).digest()


@dataclass(frozen=True, slots=True)
class GivenUp:
    """
    A POST with an unknown outcome that a policy has replaced by another one. It may be billed.

    :param intent_at: epoch seconds, just before it.
    :param reservation: what stays reserved for it in the budgets, None without one.
    """

    intent_at: float
    reservation: str | None = None


@dataclass(frozen=True, slots=True)
class SubmissionRecord:
    """
    What one task instance has submitted.

    :param intent_at: epoch seconds, just before the POST.
    :param request_id: Segmind's id, None while the outcome of the POST is unknown.
    :param submitted_at: epoch seconds from which age and expiry count.
    :param outcome: ``refused`` or ``failed`` when nothing was billed and a new try starts from nothing.
    :param resubmits: how many times a policy has already submitted again for this task instance.
    :param manifest: of the result on object storage, once it is there.
    :param previous_ids: requests this task instance had before, which a lost POST must not be taken for.
    :param spent_before: what the requests before this one cost, for a task that submits more than one.
    :param reservation: what was reserved for it in the budgets, None without one.
    :param given_up: POSTs of this task instance whose outcome is unknown and no longer searched for.
    :param filled_in: what the body that was sent has in place of strings of the inputs, such as the address of an
        uploaded file: the SHA-256 in hex of each, by that string.
    """

    fingerprint: Fingerprint
    intent_at: float
    request_id: str | None = None
    submitted_at: float | None = None
    outcome: Literal["refused", "failed"] | None = None
    resubmits: int = 0
    manifest: ResultManifest | None = None
    previous_ids: tuple[str, ...] = ()
    spent_before: dict[str, Any] | None = None
    reservation: str | None = None
    given_up: tuple[GivenUp, ...] = ()
    filled_in: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON."""
        # The task state store takes JSON values only, and a tuple is not one.
        manifest = None if self.manifest is None else self.manifest.to_json()
        values = {**asdict(self), "manifest": manifest, "previous_ids": list(self.previous_ids)}
        values["given_up"] = [asdict(one) for one in self.given_up]
        for name in ("reservation", "given_up", "filled_in"):
            if not values[name]:
                # Earlier versions do not know the field.
                del values[name]
        return values

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """
        Read a record back.

        :raises SegmindStateError: it is not one; nothing may be submitted until it has been repaired or deleted.
        """
        try:
            fingerprint = Fingerprint(**value["fingerprint"])
            manifest = ResultManifest.from_json(value.get("manifest"))
            given_up = tuple(GivenUp(**one) for one in value.get("given_up", ()))
            known = {"fingerprint": fingerprint, "manifest": manifest, "given_up": given_up}
            record = cls(**{**value, **known, "previous_ids": tuple(value.get("previous_ids", ()))})
        except (AttributeError, TypeError, KeyError) as error:
            raise SegmindStateError(_unreadable(value)) from error
        if not record._plausible() or (manifest is None) is not (value.get("manifest") is None):
            raise SegmindStateError(_unreadable(value))
        return record

    def _plausible(self) -> bool:
        # An unknown outcome that is read as "nothing was billed" would pay a second time.
        return (
            all(isinstance(text, str) for text in (*asdict(self.fingerprint).values(), *self.previous_ids))
            and _is_number(self.intent_at)
            and (self.submitted_at is None or _is_number(self.submitted_at))
            and (self.request_id is None or (isinstance(self.request_id, str) and self.request_id != ""))
            and self.outcome in (None, "refused", "failed")
            and isinstance(self.resubmits, int)
            and (self.spent_before is None or isinstance(self.spent_before, dict))
            and all(
                isinstance(name, str | None) for name in (self.reservation, *(one.reservation for one in self.given_up))
            )
            and all(_is_number(one.intent_at) for one in self.given_up)
            and isinstance(self.filled_in, dict)
            and all(isinstance(text, str) for text in (*self.filled_in, *self.filled_in.values()))
        )

    @property
    def all_ids(self) -> tuple[str, ...]:
        """The ids of all requests that this task instance is known to have had."""
        return self.previous_ids if self.request_id is None else (*self.previous_ids, self.request_id)

    @property
    def all_given_up(self) -> tuple[GivenUp, ...]:
        """The POSTs whose outcome stays unknown if another one replaces this record's."""
        is_unknown = self.request_id is None and self.outcome is None
        return (*self.given_up, GivenUp(self.intent_at, self.reservation)) if is_unknown else self.given_up

    @property
    def age_from(self) -> float:
        """The epoch second from which the age of the request counts."""
        return self.intent_at if self.submitted_at is None else self.submitted_at

    def accepted(self, request_id: str, submitted_at: float) -> SubmissionRecord:
        """Return the record with the id Segmind gave."""
        return replace(self, request_id=request_id, submitted_at=submitted_at, outcome=None)

    def ended(self, outcome: Literal["refused", "failed"]) -> SubmissionRecord:
        """Return the record of a request that cost nothing and is over."""
        return replace(self, outcome=outcome)


def filled_in(inputs: Any, body: Any) -> dict[str, str]:
    """Return digests of the strings that replace those of the inputs in a body: see :class:`SubmissionRecord`."""
    if isinstance(inputs, str):
        return {inputs: text_digest(body).hex()} if isinstance(body, str) and body != inputs else {}
    found: dict[str, str] = {}
    if isinstance(inputs, Mapping) and isinstance(body, Mapping):
        for name in inputs.keys() & body.keys():
            found |= filled_in(inputs[name], body[name])
    elif isinstance(inputs, (list, tuple)) and isinstance(body, (list, tuple)):
        for one, other in zip(inputs, body, strict=False):
            found |= filled_in(one, other)
    return found


def fill_in(inputs: Any, theirs: Any, digests: Mapping[str, str]) -> Any:
    """
    Return the inputs with the strings that were filled in, taken from a body of the history.

    :param digests: as :func:`filled_in` returned them.
    """
    if isinstance(inputs, str):
        is_ours = isinstance(theirs, str) and digests.get(inputs) == text_digest(theirs).hex()
        return theirs if is_ours else inputs
    if isinstance(inputs, Mapping) and isinstance(theirs, Mapping):
        return {name: fill_in(value, theirs.get(name), digests) for name, value in inputs.items()}
    if isinstance(inputs, (list, tuple)) and isinstance(theirs, (list, tuple)) and len(inputs) == len(theirs):
        return [fill_in(one, other, digests) for one, other in zip(inputs, theirs, strict=True)]
    return inputs


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _unreadable(value: Any) -> str:
    return (
        f"The submission record of an earlier try cannot be read (it is {type_name(value)}). Nothing is "
        "submitted until it can be read: repair or delete the record, then clear the task."
    )


@dataclass(frozen=True, slots=True)
class SubmitNew:
    """
    Submit; no request that was paid for is waiting.

    :param warning: what the policy gives up.
    """

    resubmits: int = 0
    warning: str | None = None
    previous_ids: tuple[str, ...] = ()
    given_up: tuple[GivenUp, ...] = ()

    @classmethod
    def after(cls, record: SubmissionRecord, *, resubmits: int | None = None, warning: str | None = None) -> Self:
        """
        Submit in place of what a record says, and keep what it says of earlier requests.

        :param resubmits: those of the record if None.
        """
        count = record.resubmits if resubmits is None else resubmits
        return cls(count, warning, record.all_ids, record.all_given_up)


@dataclass(frozen=True, slots=True)
class Attach:
    """Continue with the request of an earlier try."""

    record: SubmissionRecord


@dataclass(frozen=True, slots=True)
class LookUp:
    """Look up a POST whose response was never received."""

    record: SubmissionRecord


def decide_submission(
    record: SubmissionRecord | None, fingerprint: Fingerprint, on_stale: OnStale
) -> SubmitNew | Attach | LookUp:
    """
    Return what a try has to do.

    :raises SegmindConfigError: the task changed since it submitted, and ``on_stale`` is ``fail``.
    """
    if record is None:
        return SubmitNew()
    if record.outcome is not None:
        return SubmitNew.after(record)
    changes = record_changes(record, fingerprint)
    if changes:
        earlier = f"request {record.request_id!r}" if record.request_id else "a request whose id is not known"
        stale = f"{changes} changed since an earlier try of this task submitted {earlier}"
        if on_stale == "fail":
            raise SegmindConfigError(
                f"{stale}, and on_stale is 'fail'. Nothing more was submitted; the earlier request may be billed. "
                "Undo the change, or set on_stale='resubmit' to pay for a new one."
            )
        warning = f"{stale}. Submitting again because of on_stale='resubmit': the earlier one may be billed as well."
        return SubmitNew.after(record, resubmits=0, warning=warning)
    return Attach(record) if record.request_id else LookUp(record)


def latest(records: Sequence[SubmissionRecord]) -> SubmissionRecord | None:
    """
    Return the newest of the records that several stores have of one task instance.

    Every record names the requests, and the POSTs with an unknown outcome, before its own, and every write about one
    POST keeps its time, so that no two clocks are compared. Where that does not decide, a record of something that may
    be billed wins over one that says that nothing was: a store that missed a write can cost a lookup, never a second
    payment.
    """
    previous = {request_id for record in records for request_id in record.previous_ids}
    given_up = {one.intent_at for record in records for one in record.given_up}
    current = [
        record
        for record in records
        if (record.intent_at not in given_up if record.request_id is None else record.request_id not in previous)
    ]
    posts: dict[float, SubmissionRecord] = {}
    for record in current:
        other = posts.get(record.intent_at)
        if other is None or _progress(record) > _progress(other):
            posts[record.intent_at] = record
    return max(posts.values(), key=_weight, default=None)


def _progress(record: SubmissionRecord) -> tuple[bool, bool, bool]:
    return record.request_id is not None, record.outcome is not None, record.manifest is not None


def _weight(record: SubmissionRecord) -> tuple[bool, bool, int, float]:
    before = len(record.previous_ids) + len(record.given_up)
    return record.outcome is None, record.request_id is not None, before, record.intent_at


def record_changes(record: SubmissionRecord, fingerprint: Fingerprint) -> str:
    """Return in words what changed since ``record``, empty when nothing did."""
    names = fingerprint.changes_from(record.fingerprint)
    described = []
    for name in names:
        before, after = getattr(record.fingerprint, name), getattr(fingerprint, name)
        described.append("'inputs'" if name == "inputs" else f"{name!r} ({before!r} to {after!r})")
    return " and ".join(described)


def unknown_message(record: SubmissionRecord, result: str) -> str:
    """
    Return what is known of a POST whose outcome is unknown.

    :param result: sentences on what the request history showed.
    """
    return (
        f"A request to model {record.fingerprint.model!r} was about to be sent at {iso(record.intent_at)} (fingerprint "
        f"{record.fingerprint.inputs[:16]}), and whether Segmind accepted it is unknown. {result}"
    )


def given_up_message(given_up: Sequence[GivenUp]) -> str:
    """Return the part of a message about POSTs that were given up."""
    times = ", ".join(iso(one.intent_at) for one in given_up)
    posts, were = ("An earlier POST", "was") if len(given_up) == 1 else (f"{len(given_up)} earlier POSTs", "were")
    return (
        f"{posts} of this task ({times}), of unknown outcome, {were} replaced by another one. Each that did arrive is "
        "billed as well, and what is reserved for it in a budget stays reserved until the request history shows its "
        "bill."
    )


def iso(timestamp: float) -> str:
    """Return epoch seconds as ISO 8601 in UTC."""
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="seconds")
