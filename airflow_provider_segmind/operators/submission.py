"""Submit once for one task instance: carries out what :mod:`airflow_provider_segmind.api.submission` decides."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tenacity import Retrying, stop_after_attempt, wait_fixed

from airflow_provider_segmind.api import history
from airflow_provider_segmind.api.client import SegmindClient
from airflow_provider_segmind.api.policies import (
    MAX_RESUBMITS,
    RESULT_LIFETIME,
    OnExpired,
    OnFailed,
    OnStale,
    OnUnknown,
)
from airflow_provider_segmind.api.submission import (
    Attach,
    Fingerprint,
    LookUp,
    Note,
    SubmitNew,
    decide,
    iso,
    unknown_message,
)
from airflow_provider_segmind.exceptions import (
    SegmindError,
    SegmindRequestError,
    SegmindRequestFailedError,
    SegmindStateError,
    SegmindSubmissionUnknownError,
)
from airflow_provider_segmind.journal import Journal


@dataclass(frozen=True, slots=True)
class Policies:
    """
    What to do where the safe answer is not the only one; every default keeps from paying twice unasked.

    :param on_stale: the task changed since it submitted.
    :param on_unknown: the fate of a POST is unknown and the history does not show it.
    :param on_failed: Segmind reports FAILED, which costs nothing.
    :param on_expired: the result is gone.
    :param max_resubmits: how often ``on_failed`` and ``on_expired`` may submit again for one task instance.
    :param unknown_patience: seconds after the intent for which ``on_unknown="wait"`` keeps looking.
    """

    on_stale: OnStale = "resubmit"
    on_unknown: OnUnknown = "fail"
    on_failed: OnFailed = "fail"
    on_expired: OnExpired = "recover"
    max_resubmits: int = MAX_RESUBMITS
    unknown_patience: float = RESULT_LIFETIME


class Submission:
    """
    The one request of one task instance.

    :param journal: where its note is kept across tries.
    :param connection: the connection's id and base URL, part of the fingerprint.
    :param log: the task's logger, whose type differs between Airflow versions.
    """

    def __init__(
        self,
        *,
        client: SegmindClient,
        journal: Journal,
        model: str,
        inputs: Mapping[str, Any],
        connection: str,
        policies: Policies,
        log: Any,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.client = client
        self.model = model
        self.inputs = inputs
        self.policies = policies
        self._journal = journal
        self._fingerprint = Fingerprint.of(model=model, inputs=inputs, connection=connection)
        self._log = log
        self._clock = clock
        self._sleep = sleep

    def begin(self) -> Note:
        """
        Return the note of a request that Segmind has accepted: the one of an earlier try, else a new one.

        :raises SegmindSubmissionUnknownError: a POST may have arrived and nobody knows; nothing more was sent.
        :raises SegmindError: it was refused; nothing was billed.
        """
        decision = decide(self._journal.read(), self._fingerprint, self.policies.on_stale)
        if isinstance(decision, Attach):
            self._log.info(
                "An earlier try submitted request %s at %s: going on with it, nothing is submitted or paid again",
                decision.note.request_id,
                iso(decision.note.intent_at),
            )
            return decision.note
        if isinstance(decision, LookUp):
            return self._resolve_unknown(decision.note, None)
        return self._submit(decision)

    def current(self) -> Note:
        """
        Return the note as it stands when a deferred task wakes up; nothing is ever submitted here.

        :raises SegmindStateError: it is gone.
        """
        note = self._journal.read()
        if note is None or note.request_id is None:
            raise SegmindStateError(
                f"The note of this task's request is gone from {self._journal.name} while it was deferred. The request "
                "goes on and may be billed; nothing was submitted again."
            )
        return note

    def after_failure(self, note: Note, error: SegmindRequestFailedError) -> Note:
        """
        Close a FAILED request, and submit once more where the policy says so.

        :raises SegmindRequestFailedError: it stays failed; nothing was billed, and clearing the task submits anew.
        """
        self._write(note.ended("failed"))
        if self.policies.on_failed == "fail":
            raise error
        return self.again(note, error, "It cost nothing.")

    def again(self, note: Note, error: SegmindRequestError, cost: str) -> Note:
        """
        Submit again because a policy says so.

        :raises SegmindRequestError: ``error``, when the policy has been used up.
        """
        if note.resubmits >= self.policies.max_resubmits:
            self._log.error("Not submitting again: max_resubmits (%d) is reached", self.policies.max_resubmits)
            raise error
        return self._submit(SubmitNew(note.resubmits + 1, f"{error} Submitting again, as the task asks. {cost}"))

    def remember(self, note: Note, landed: dict[str, Any]) -> None:
        """Note where the result was landed, so that a cleared task finds it after Segmind has dropped it."""
        self._write(replace(note, landed=landed))

    def _submit(self, decision: SubmitNew) -> Note:
        if decision.warning:
            self._log.warning(decision.warning)
        note = Note(self._fingerprint, intent_at=self._clock(), resubmits=decision.resubmits)
        self._journal.write(note)
        self._log.info("Noted the intent to submit to model %s in %s", self.model, self._journal.name)
        submitted_at = self._clock()
        try:
            accepted = self.client.submit(self.model, self.inputs)
        except SegmindError as error:
            if error.billed is None:
                return self._resolve_unknown(note, error)
            self._write(note.ended("refused"))
            raise
        self._log.info("Submitted request %s to model %s", accepted.request_id, self.model)
        return self._write(note.accepted(accepted.request_id, submitted_at))

    def _resolve_unknown(self, note: Note, cause: SegmindError | None) -> Note:
        self._log.warning(unknown_message(note, "Looking for it in Segmind's request history; it is not sent again."))
        record = self.client.drive(history.search(self.client.wire, note, self.inputs))
        deadline = note.intent_at + self.policies.unknown_patience
        pause = 2 * history.HISTORY_WAITS[-1]
        while record is None and self.policies.on_unknown == "wait" and self._clock() < deadline:
            self._sleep(min(pause, max(0.0, deadline - self._clock())))
            pause = min(2 * pause, history.LONGEST_WAIT)
            record = self.client.drive(history.search(self.client.wire, note, self.inputs, waits=(0.0,)))
        if record is not None:
            self._log.info("Found it: request %s. Going on with it, nothing is paid again", record.request_id)
            return self._write(note.accepted(record.request_id, history.submission_moment(record, note)))
        if self.policies.on_unknown == "resubmit":
            risk = "If that POST did arrive, it is billed as well."
            said = unknown_message(note, f"The request history does not show it. Submitting again as asked. {risk}")
            return self._submit(SubmitNew(note.resubmits + 1, said))
        first = f"{cause} " if cause else ""
        raise SegmindSubmissionUnknownError(
            first
            + unknown_message(
                note,
                "The request history does not show it (rows appear up to two hours late). Nothing was sent again. "
                "Clear the task to look again; on_unknown='resubmit' submits again, which pays twice if that POST "
                "did arrive.",
            )
        ) from cause

    def _write(self, note: Note) -> Note:
        try:
            Retrying(stop=stop_after_attempt(3), wait=wait_fixed(1), sleep=self._sleep, reraise=True)(
                self._journal.write, note
            )
        except Exception:  # noqa: BLE001
            # The POST has been answered: going on keeps what was paid for, and the intent lets a later try find it.
            self._log.exception("Could not note request %s in %s", note.request_id, self._journal.name)
        return note
