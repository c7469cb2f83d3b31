"""
A chat task: a prompt becomes inputs, a reply becomes the answer or a follow-up request.

Each request is submitted once and has a record of its own, so that a retry, a cleared task and a task that a trigger
resumes continue from the last recorded request and pay none of them again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from airflow_provider_segmind.answer_cache import Answer
from airflow_provider_segmind.arguments import ChatPrompt, check_files, is_path, parse_json, path_text
from airflow_provider_segmind.chat.attachments import MAX_INLINE_BYTES, Attachment, load_attachment, too_large_inline
from airflow_provider_segmind.chat.json_values import clean_text, for_xcom, json_text
from airflow_provider_segmind.chat.messages import build_chat_inputs
from airflow_provider_segmind.chat.model_families import family_of
from airflow_provider_segmind.chat.output_type import OutputType
from airflow_provider_segmind.chat.replies import ChatReply, TokenUsage, read_reply
from airflow_provider_segmind.chat.reply_policy import (
    Accept,
    Decision,
    FollowUp,
    Refuse,
    Spent,
    decide_reply,
    part_after,
    reply_error,
)
from airflow_provider_segmind.client.client import SegmindClient
from airflow_provider_segmind.client.models import Metrics, RequestResult
from airflow_provider_segmind.defaults import MAX_REPAIRS, OnLargeFile
from airflow_provider_segmind.enrichment.outcomes import Outcome, outcome_before, outcome_of
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindError, SegmindRequestExpiredError, shorten
from airflow_provider_segmind.execution.request import (
    AnsweredMeanwhileError,
    Defer,
    RequestExecution,
    RequestSettings,
    XComPush,
)
from airflow_provider_segmind.execution.result import summary
from airflow_provider_segmind.money import format_usd
from airflow_provider_segmind.result_storage import (
    ResultDestination,
    StoredResult,
    manifest_of,
    store_error,
    stored_result,
    warn_of_replacements,
)
from airflow_provider_segmind.task_state import TaskState
from airflow_provider_segmind.triggers.events import RequestEvent

UPLOAD_SCHEME = "segmind-upload://"
"""Placeholder for the address of a file that is uploaded when the request is submitted; the rest is its SHA-256."""
NOTHING_USED = TokenUsage(input_tokens=0, output_tokens=0, cached_tokens=0, thinking_tokens=0, total_tokens=0)
"""The tokens of an answer that was paid for before."""
_REPLACED = (
    "%d strings of the answer contain U+0000 or a lone surrogate, which not every XCom backend can store; each such "
    "character was replaced by U+FFFD"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatSettings:
    """
    What a chat task sends and what its answer must be.

    :param request: how each of its requests is submitted and waited for, and where their bodies are stored.
    :param destination: where the answer goes.
    :param output_type: what the answer must be, None for text.
    :param dag_folder: where files with a relative path are searched for first.
    """

    request: RequestSettings
    destination: ResultDestination
    output_type: OutputType | None = None
    options: Any = None
    api_format: str | None = None
    max_repairs: int = MAX_REPAIRS
    large_files: OnLargeFile = "fail"
    dag_folder: Path | None = None


# A prompt becomes inputs.


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """
    The first request of a chat task.

    :param inputs: its body, in which the address of a file to be uploaded is a placeholder, so that the body is the
        same in every try.
    :param uploads: the files to be uploaded, by placeholder.
    """

    inputs: Mapping[str, Any]
    uploads: Mapping[str, Attachment]

    def upload(self, inputs: Mapping[str, Any], send: Callable[[Sequence[str]], list[str]]) -> Mapping[str, Any]:
        """Upload the files, which is free, and return ``inputs`` with their addresses."""
        if not self.uploads:
            return inputs
        addresses = {placeholder: send([part.data_uri()])[0] for placeholder, part in self.uploads.items()}
        filled: Mapping[str, Any] = _fill(inputs, addresses)
        return filled


def build_request(settings: ChatSettings, prompt: ChatPrompt) -> ChatRequest:
    """
    Load the files and build the first request.

    :raises SegmindConfigError: it cannot work; names the field. Nothing was sent.
    """
    model = settings.request.model
    family = family_of(model, settings.api_format)
    files = _decoded("files", prompt.files) or []
    check_files(files)
    uploads: dict[str, Attachment] = {}
    inputs = build_chat_inputs(
        model=model,
        prompt=prompt.prompt,
        system=prompt.system,
        messages=_decoded("messages", prompt.messages),
        attachments=[_load(settings, file, f"files[{index}]", uploads) for index, file in enumerate(files)],
        options=_decoded("options", settings.options),
        api_format=settings.api_format,
        response_format=settings.output_type.response_format(family) if settings.output_type else None,
    )
    return ChatRequest(inputs, uploads)


def _decoded(name: str, value: Any) -> Any:
    """Return a rendered structure: the value itself, or what it contains as a string of JSON."""
    if value is None or isinstance(value, Mapping | list | tuple):
        return value
    if not isinstance(value, str):
        # The outputs of a mapped task arrive as a lazy sequence of Airflow's.
        return list(value) if hasattr(value, "__getitem__") and not isinstance(value, bytes) else value
    return parse_json(name, value)


def _load(settings: ChatSettings, file: Any, name: str, uploads: dict[str, Attachment]) -> Attachment:
    def read(address: str) -> bytes:
        return _read(settings.dag_folder, address, name, MAX_INLINE_BYTES if settings.large_files == "fail" else None)

    def upload(part: Attachment) -> str:
        placeholder = UPLOAD_SCHEME + hashlib.sha256(part.data or b"").hexdigest()
        uploads[placeholder] = part
        return placeholder

    return load_attachment(
        path_text(file) if is_path(file) else file,
        read=read,
        upload=upload if settings.large_files == "upload" else None,
        field_name=name,
    )


def _read(dag_folder: Path | None, address: str, name: str, limit: int | None) -> bytes:
    file = shorten(address.rstrip("/").rpartition("/")[2], 80)
    try:
        return _read_at(dag_folder, address, f"{name} ({file})", limit)
    except SegmindError:
        raise
    except FileNotFoundError as error:
        raise SegmindConfigError(f"{name} is {file!r}, but there is no such file. Nothing was sent.") from error
    except Exception as error:
        raise store_error(error, address, f"{name} ({file}) cannot be read") from error


def _read_at(dag_folder: Path | None, address: str, shown: str, limit: int | None) -> bytes:
    from airflow_provider_segmind.compat import ObjectStoragePath, with_root

    beside = dag_folder / address if dag_folder is not None and "://" not in address else None
    path = ObjectStoragePath(with_root(str(beside) if beside is not None and beside.exists() else address))
    if limit is not None and path.stat().st_size > limit:
        raise too_large_inline(shown, limit)
    return path.read_bytes()


def _fill(node: Any, addresses: Mapping[str, str]) -> Any:
    if isinstance(node, str):
        return addresses.get(node, node)
    if isinstance(node, Mapping):
        return {key: _fill(value, addresses) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_fill(value, addresses) for value in node]
    return node


# Replies become the answer.

Inputs = Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request of a chat task, and what was spent before it."""

    execution: RequestExecution
    inputs: Inputs
    before: Spent


def _record_followed(exchange: Exchange, after: Spent) -> None:
    """
    Record the request before a follow-up of an earlier try, which may have been killed before it recorded it.

    :param after: what had been spent when the follow-up was sent.
    """
    before = exchange.before
    tokens = [0 if spent.usage is None else spent.usage.get("total_tokens") for spent in (before, after)]
    exchange.execution.record_spend(
        outcome_before(after.follow_ups) if after.follow_ups else Outcome.UNKNOWN,
        cost=None if before.cost is None or after.cost is None else round(after.cost - before.cost, 12),
        tokens=None if tokens[0] is None or tokens[1] is None else tokens[1] - tokens[0],
    )


class ChatExecution:
    """
    The requests of one chat task instance, each a follow-up of the one before.

    A task begins with :meth:`start` and continues after a deferral with :meth:`resume`.

    :param request: makes the first request when it is needed.
    :param task_state: where the submission record of a request is kept, by the part of the task it belongs to.
    """

    def __init__(
        self,
        settings: ChatSettings,
        request: Callable[[], ChatRequest],
        *,
        client: SegmindClient,
        task_state: Callable[[str], TaskState],
        log: Any,
        defer: Defer,
        xcom_push: XComPush,
    ) -> None:
        self._settings = settings
        self._model = settings.request.model
        self._make_request = request
        self._client = client
        self._task_state = task_state
        self._log = log
        self._defer = defer
        self._xcom_push = xcom_push
        self._current: Exchange | None = None
        self.cost: float | None = None
        """USD billed for the answer, including the requests before it; None if unknown."""
        self.reused: Answer | None = None
        """The cached answer that this try returns, None if the try has a request of its own."""

    @property
    def request_id(self) -> str | None:
        """The request that the task waits for, None before there is one."""
        return None if self._current is None else self._current.execution.request_id

    def start(self) -> StoredResult:
        """Submit, or continue from the last request of an earlier try; return the answer or defer."""
        first = self._first
        stored = self._recalled()
        if stored is not None:
            return stored
        try:
            first.execution.submit()
            return self._answer(self._latest(first))
        except AnsweredMeanwhileError as answered:
            return answered.stored

    def resume(self, event: RequestEvent | None) -> StoredResult:
        """
        Continue after a deferral; nothing is submitted but follow-ups.

        :param event: how waiting in the triggerer ended, None when this worker is to poll.
        """
        first = self._first
        first.execution.reattach(event.request_id if event else None)
        try:
            return self._answer(self._latest(first, event), event)
        except AnsweredMeanwhileError as answered:
            return answered.stored

    def _answer(self, exchange: Exchange, event: RequestEvent | None = None) -> StoredResult:
        while True:
            self._current = exchange
            stored = exchange.execution.finish(event)
            event = None
            request_id = str(exchange.execution.request_id)
            try:
                result = self._result(stored, request_id)
            except SegmindRequestExpiredError as error:
                exchange.execution.finished(Outcome.FAILED, cost=error.cost)
                raise
            reply = self._read(result)
            spent = exchange.before.plus(result.metrics.cost, reply.usage)
            self._report(result, reply, spent)
            decision = self._decide(reply, exchange)
            exchange.execution.finished(
                outcome_of(decision),
                metrics=result.metrics.to_json(),
                usage=reply.usage,
                finish_reason=str(reply.finish_reason),
            )
            if isinstance(decision, Accept):
                stored = self._store(decision.result, result)
                self._keep(exchange, result, spent)
                return stored
            if isinstance(decision, Refuse):
                raise reply_error(
                    decision, reply, model=self._model, request_id=request_id, paid_requests=spent.requests
                )
            exchange = self._follow_up(request_id, decision, spent)

    @cached_property
    def _first(self) -> Exchange:
        return self._exchange(self._first_inputs, Spent(), self._task_state(""))

    def _recalled(self) -> StoredResult | None:
        """Return the cached answer, None if this task must submit a request."""
        first = self._first
        answer = first.execution.known_answer(schema=self._schema)
        result = None if answer is None else answer.result
        if answer is None or result is None:
            return None
        reply = self._read(result)
        decision = self._decide(reply, first)
        if not isinstance(decision, Accept):
            self._log.info("The cached answer is not valid for this task; submitting a new request")
            return None
        self.reused, self.cost = answer, 0.0
        first.execution.reuse(answer)
        self._xcom_push(key="usage", value=NOTHING_USED.as_dict())
        self._xcom_push(key="finish_reason", value=for_xcom(str(reply.finish_reason)).value)
        return self._store(decision.result, result)

    def _keep(self, exchange: Exchange, result: RequestResult, spent: Spent) -> None:
        """Keep an answer under the question of the first request, with what all of them cost."""

        def answer(question: bytes) -> Answer:
            return Answer(
                fingerprint=question,
                model=self._model,
                at=exchange.execution.record.age_from,
                request_id=result.request_id,
                requests=spent.requests,
                cost=spent.cost,
                body=result.encoded(),
            )

        self._first.execution.keep_answer(answer, schema=self._schema)

    @property
    def _schema(self) -> Any:
        return self._settings.output_type.schema if self._settings.output_type else None

    def _follow_up(self, request_id: str, follow_up: FollowUp, spent: Spent) -> Exchange:
        self._log.warning(
            "The answer to request %s %s. Sending a follow-up, a further paid request", request_id, follow_up.reason
        )
        before = replace(spent, follow_ups=follow_up.follow_ups)
        following = self._exchange(lambda: follow_up.inputs, before, self._task_state(part_after(request_id)))
        following.execution.submit()
        return following

    def _latest(self, exchange: Exchange, event: RequestEvent | None = None) -> Exchange:
        """Follow the chain of records to the last request that Segmind has accepted."""
        while True:
            request_id = str(exchange.execution.request_id)
            state = self._task_state(part_after(request_id))
            record = state.read()
            resumed_by = event.request_id if event is not None and event.request_id != request_id else None
            if record is None or record.outcome is not None or (record.request_id or resumed_by) is None:
                # An unknown or refused follow-up is handled where its body is available: after the reply before it.
                return exchange
            before = Spent.from_json(record.spent_before)
            _record_followed(exchange, before)
            following = self._exchange(self._inputs_after(exchange), before, state)
            record = following.execution.reattach(resumed_by)
            self._log.info(
                "Request %s is complete and paid; an earlier try followed up with %s", request_id, record.request_id
            )
            exchange = following

    def _inputs_after(self, exchange: Exchange) -> Inputs:
        def inputs() -> Mapping[str, Any]:
            record = exchange.execution.record
            request_id = str(record.request_id)
            try:
                stored = stored_result(request_id, self._settings.request.destination, record.manifest)
                result = self._client.get_result(request_id) if stored is None else self._result(stored, request_id)
            except SegmindRequestExpiredError:
                self._log.warning("The reply to request %s is gone; continuing without it", request_id)
                return exchange.inputs()
            decision = self._decide(self._read(result), exchange)
            return decision.inputs if isinstance(decision, FollowUp) else exchange.inputs()

        return inputs

    def _decide(self, reply: ChatReply, exchange: Exchange) -> Decision:
        output_type = self._settings.output_type
        parsed = output_type.parse(reply.text) if output_type else None
        if parsed is not None and parsed.replaced:
            self._log.warning(_REPLACED, parsed.replaced)
        return decide_reply(
            reply,
            parsed,
            first=self._first_inputs,
            sent=exchange.inputs,
            follow_ups=exchange.before.follow_ups,
            max_repairs=self._settings.max_repairs,
        )

    def _report(self, result: RequestResult, reply: ChatReply, spent: Spent) -> None:
        self.cost = spent.cost
        line = summary(result.request_id, self._model, StoredResult(result.to_json()))
        self._log.info("%s, finish reason %s", line, reply.finish_reason)
        if spent.requests > 1:
            self._log.info("This answer took %d paid requests, %s in total", spent.requests, format_usd(spent.cost))
        self._xcom_push(key="usage", value=for_xcom(dict(spent.usage or {})).value)
        self._xcom_push(key="cost", value=for_xcom(spent.cost).value)
        self._xcom_push(key="finish_reason", value=for_xcom(str(reply.finish_reason)).value)

    def _store(self, answer: Any, result: RequestResult) -> StoredResult:
        as_text = self._settings.output_type is None
        carried = for_xcom(answer)
        what = f"The answer to request {result.request_id}"
        warn_of_replacements(carried, what)
        encoded = clean_text(carried.value if as_text else json_text(answer)).encode()
        size = len(json.dumps(carried.value, ensure_ascii=False).encode())
        files = self._settings.destination.files_of(what, size)
        if files is None:
            return StoredResult(carried.value)
        path = files.file(result.request_id, ".answer.txt" if as_text else ".answer.json")
        path.write_bytes(encoded)
        small = self._settings.destination.fits_xcom(size)
        manifest = None if small else manifest_of(result, self._model, [str(path)], len(encoded))
        return StoredResult(carried.value, manifest, uri=str(path))

    def _result(self, stored: StoredResult, request_id: str) -> RequestResult:
        """Return the body of a request, read from its file where it was stored in one."""
        if stored.manifest is not None:
            stored = stored_result(request_id, self._settings.request.destination, stored.manifest) or StoredResult()
        if stored.recovered:
            # The history has an output file at most, and that is not the model's answer.
            raise SegmindRequestExpiredError(
                f"The answer to request {request_id!r} is gone: Segmind keeps it for an hour after submission, and "
                "its request history has no text. The request was billed. on_expired='resubmit' pays for a new one; "
                "output_path prevents this.",
                request_id=request_id,
                cost=Metrics.model_validate(stored.metrics).cost,
            )
        if stored.manifest is not None or not isinstance(stored.body, dict):
            # A reply that is nothing but an address counts as media when it is stored; Segmind has the text.
            return self._client.get_result(request_id)
        return RequestResult.model_validate({"status": "COMPLETED", **stored.body, "request_id": request_id})

    def _read(self, result: RequestResult) -> ChatReply:
        return read_reply(result.to_json(), model=self._model, api_format=self._settings.api_format)

    @cached_property
    def _request(self) -> ChatRequest:
        return self._make_request()

    def _first_inputs(self) -> Mapping[str, Any]:
        return self._request.inputs

    def _exchange(self, inputs: Inputs, before: Spent, state: TaskState) -> Exchange:
        execution = RequestExecution(
            self._settings.request,
            inputs,
            client=self._client,
            state=state,
            log=self._log,
            defer=self._defer,
            xcom_push=self._xcom_push,
            spent_before=before.to_json() if before.requests else None,
            prepare=lambda body: self._request.upload(body, self._client.upload),
            # The answer cache is keyed by the question of the first request only.
            recall=(lambda: None) if before.requests else self._recalled,
        )
        return Exchange(execution, inputs, before)
