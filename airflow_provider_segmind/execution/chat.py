"""
ChatExecution's work: a prompt becomes inputs, a reply becomes an answer or a further request.

Each request is submitted once and recorded by itself, so that whoever goes on (a retry, a cleared task, a task that a
trigger woke) goes on from the last recorded request and pays none of them again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.arguments import ChatPrompt, _check_files, is_path, path_or_none, path_text
from airflow_provider_segmind.chat.json_values import clean_text, for_xcom, json_text
from airflow_provider_segmind.chat.replies import ChatReply, FinishReason, read_reply
from airflow_provider_segmind.chat.reply_policy import (
    MAX_ENLARGEMENTS,
    Accept,
    AskAgainLarger,
    Decision,
    Refuse,
    Repair,
    Spent,
    decide,
    further_inputs,
    output_cap_of,
    part_after,
    reply_error,
)
from airflow_provider_segmind.client.models import RequestResult
from airflow_provider_segmind.client.submission import SubmissionRecord
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindRequestExpiredError, shorten
from airflow_provider_segmind.execution.request import Submission, settle, summary
from airflow_provider_segmind.result_storage import ResultDestination, manifest_of, stored_result, warn_of_replacements
from airflow_provider_segmind.task_state import TaskState, task_state_for

if TYPE_CHECKING:
    from airflow_provider_segmind.chat.attachments import FilePart
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.operators.chat import SegmindChatOperator
    from airflow_provider_segmind.triggers.events import RequestEvent

UPLOAD_SCHEME = "segmind-upload://"
"""Stands for the address of a file that is uploaded when the request is submitted; the rest is its SHA-256."""


def build(task: SegmindChatOperator, question: ChatPrompt) -> dict[str, Any]:
    """
    Build the body of the first request.

    A file that is to be uploaded stands in it as an address of :data:`UPLOAD_SCHEME`, so that the body is the same in
    every try; :func:`upload_files` puts the real addresses in.

    :raises SegmindConfigError: something cannot work; names the field. Nothing was sent.
    """
    from airflow_provider_segmind.chat.messages import build_chat_inputs
    from airflow_provider_segmind.chat.model_families import family_of

    model = task.hook.model_or_default(task.model)
    family = family_of(model, task.api_format)
    files = _decoded("files", question.files) or []
    _check_files(files)
    return build_chat_inputs(
        model=model,
        prompt=question.prompt,
        system=question.system,
        messages=_decoded("messages", question.messages),
        files=[_load(task, file, f"files[{index}]") for index, file in enumerate(files)],
        options=_decoded("options", task.options),
        api_format=task.api_format,
        response_format=task.answer_type.response_format(family) if task.answer_type else None,
    )


def upload_files(task: SegmindChatOperator, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Upload what is too large to travel inside a request, and return the body with the addresses. Free."""
    addresses = {placeholder: task.hook.upload(part.data_uri())[0] for placeholder, part in task.uploads.items()}
    replaced: Mapping[str, Any] = _replaced(inputs, addresses) if addresses else inputs
    return replaced


def _decoded(name: str, value: Any) -> Any:
    """Return what a template made of a structure: itself, or what its JSON text holds."""
    if value is None or isinstance(value, Mapping | list | tuple):
        return value
    if not isinstance(value, str):
        # What a mapped task upstream returned arrives as a lazy sequence of Airflow's own.
        return list(value) if hasattr(value, "__getitem__") and not isinstance(value, bytes) else value
    import json

    try:
        return json.loads(value)
    except ValueError as error:
        raise SegmindConfigError(
            f"{name!r} is a text that is no JSON: end the template with '| tojson'. Nothing was sent."
        ) from error


def _load(task: SegmindChatOperator, file: Any, name: str) -> FilePart:
    import hashlib

    from airflow_provider_segmind.chat.attachments import MAX_INLINE_BYTES, load_file

    limit = MAX_INLINE_BYTES if task.max_inline_bytes is None else task.max_inline_bytes

    def read(address: str) -> bytes:
        return _read(task, address, name, limit if task.large_files == "fail" else None)

    def upload(part: FilePart) -> str:
        placeholder = UPLOAD_SCHEME + hashlib.sha256(part.data or b"").hexdigest()
        task.uploads[placeholder] = part
        return placeholder

    return load_file(
        path_text(file) if is_path(file) else file,
        read=read,
        max_inline_bytes=limit,
        upload=upload if task.large_files == "upload" else None,
        field_name=name,
    )


def _read(task: SegmindChatOperator, address: str, name: str, limit: int | None) -> bytes:
    from airflow_provider_segmind.compat import ObjectStoragePath

    dag = task.get_dag()
    beside = Path(dag.fileloc).parent / address if dag is not None and dag.fileloc and "://" not in address else None
    path = ObjectStoragePath(str(beside) if beside is not None and beside.exists() else address)
    try:
        size = path.stat().st_size
        if limit is not None and size > limit:
            raise SegmindConfigError(
                f"{name} ({shorten(path.name, 80)}) has {size} bytes, over the {limit} that may travel inside a "
                "request. Pass an http(s) address, or set large_files='upload'. Nothing was sent."
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SegmindConfigError(
            f"{name} names {shorten(path.name, 80)!r}, where there is no file. Nothing was sent."
        ) from error


def _replaced(node: Any, addresses: Mapping[str, str]) -> Any:
    if isinstance(node, str):
        return addresses.get(node, node)
    if isinstance(node, Mapping):
        return {key: _replaced(value, addresses) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_replaced(value, addresses) for value in node]
    return node


Inputs = Callable[[], Mapping[str, Any]]
_REPLACED = (
    "%d strings of the answer contain NUL or half a surrogate pair, which not every XCom backend can store; each such "
    "character was replaced by U+FFFD"
)


@dataclass(frozen=True, slots=True)
class Round:
    """One request of the chain, and what was spent before it."""

    submission: Submission
    record: SubmissionRecord
    inputs: Inputs
    before: Spent


class Conversation:
    """
    The requests of one chat task instance.

    :param task: the operator, its fields rendered.
    """

    def __init__(self, task: SegmindChatOperator, context: Context) -> None:
        self._task = task
        self._context = context
        self._client = task.hook.get_conn()
        self._model = task.hook.model_or_default(task.model)
        self._connection = f"{task.segmind_conn_id} at {task.hook.config.endpoints.gateway}"

    def begin(self) -> Any:
        """Ask, or go on from what an earlier try asked; return the answer or defer."""
        submission = self._submission(self._first_inputs, Spent(), self._state())
        return self._answer(self._latest(Round(submission, submission.begin(), self._first_inputs, Spent())))

    def go_on(self, event: RequestEvent | None) -> Any:
        """
        Go on after a deferral; nothing is submitted but what the reply asks for.

        :param event: how waiting ended, None when this worker is to look itself.
        """
        submission = self._submission(self._first_inputs, Spent(), self._state())
        record = submission.current(event.request_id if event else None)
        latest = self._latest(Round(submission, record, self._first_inputs, Spent()), event)
        return self._answer(latest, event)

    def _answer(self, asked: Round, event: RequestEvent | None = None) -> Any:
        while True:
            value = settle(self._task, self._context, asked.submission, asked.record, event)
            event = None
            request_id = str(self._task.request_id)
            result = self._result(value, request_id)
            reply = self._read(result)
            spent = asked.before.plus(result.metrics.cost, reply.usage)
            self._tell(result, reply, spent)
            decision = self._decide(reply, asked)
            if isinstance(decision, Accept):
                return self._store(decision.result, result)
            if isinstance(decision, Refuse):
                raise reply_error(
                    decision, reply, model=self._model, request_id=request_id, paid_requests=spent.requests
                )
            asked = self._ask_again(asked, request_id, decision, spent)

    def _ask_again(self, asked: Round, request_id: str, decision: AskAgainLarger | Repair, spent: Spent) -> Round:
        if isinstance(decision, Repair):
            # The validator quotes what it refuses, and a log is no place for that.
            why = "is not the data asked for"
        else:
            why = f"was cut off; the output cap becomes {decision.cap} tokens"
        self._task.log.warning("The answer to request %s %s. Asking again is a further paid request", request_id, why)

        def inputs() -> Mapping[str, Any]:
            return further_inputs(asked.inputs(), decision)

        before = spent.toward(decision)
        submission = self._submission(inputs, before, self._state(request_id))
        return Round(submission, submission.begin(), inputs, before)

    def _latest(self, asked: Round, event: RequestEvent | None = None) -> Round:
        """Follow the chain of records to the last request that Segmind has accepted."""
        while True:
            request_id = str(asked.record.request_id)
            state = self._state(request_id)
            record = state.read()
            inputs = self._inputs_after(asked)
            before = Spent.from_json(record.before if record else None)
            submission = self._submission(inputs, before, state)
            if record is not None and event is not None and event.request_id != request_id:
                record = submission.current(event.request_id)
            if record is None or record.request_id is None or record.outcome is not None:
                # What is unknown or refused is decided where its body is at hand: after the reply before it.
                return asked
            self._task.log.info(
                "Request %s is paid and done with; an earlier try went on with %s", request_id, record.request_id
            )
            asked = Round(submission, record, inputs, before)

    def _inputs_after(self, asked: Round) -> Inputs:
        def inputs() -> Mapping[str, Any]:
            request_id = str(asked.record.request_id)
            try:
                value = stored_result(request_id, self._task.destination, asked.record.landed)
                result = self._result(value or self._client.get_result(request_id).to_json(), request_id)
            except SegmindRequestExpiredError:
                self._task.log.warning("The reply to request %s is gone; going on without it", request_id)
                return asked.inputs()
            decision = self._decide(self._read(result), asked)
            if isinstance(decision, AskAgainLarger | Repair):
                return further_inputs(asked.inputs(), decision)
            return asked.inputs()

        return inputs

    def _decide(self, reply: ChatReply, asked: Round) -> Decision:
        task = self._task
        parsed = task.answer_type.parse(reply.text) if task.answer_type else None
        if parsed is not None and parsed.replaced:
            task.log.warning(_REPLACED, parsed.replaced)
        # Only a reply that may be cut off needs the request's own cap, and with it the body and its files.
        capped = reply.finish_reason in (FinishReason.LENGTH, FinishReason.UNKNOWN) and (
            asked.before.enlargements < MAX_ENLARGEMENTS
        )
        return decide(
            reply,
            parsed,
            repairs_left=task.max_repairs - asked.before.repairs,
            truncation_retries_left=MAX_ENLARGEMENTS - asked.before.enlargements,
            output_cap=output_cap_of(asked.inputs()) if capped else None,
        )

    def _tell(self, result: RequestResult, reply: ChatReply, spent: Spent) -> None:
        task = self._task
        line = summary(result.request_id, self._model, result.to_json())
        task.log.info("%s, finish reason %s", line, reply.finish_reason)
        if spent.requests > 1:
            cost = "an unknown amount" if spent.cost is None else f"{spent.cost} USD"
            task.log.info("This answer has taken %d paid requests, %s in all", spent.requests, cost)
        if task.do_xcom_push:
            push = self._context["ti"].xcom_push
            push(key="usage", value=for_xcom(dict(spent.usage or {})).value)
            push(key="cost", value=for_xcom(spent.cost).value)
            push(key="finish_reason", value=for_xcom(str(reply.finish_reason)).value)

    def _store(self, answer: Any, result: RequestResult) -> Any:
        task = self._task
        carried = for_xcom(answer)
        warn_of_replacements(carried, f"The answer to request {result.request_id}")
        text = carried.value if task.answer_type is None else json_text(answer)
        encoded = clean_text(text).encode()
        small = len(json.dumps(carried.value, ensure_ascii=False).encode()) <= task.max_xcom_bytes
        destination = ResultDestination(
            path_or_none(task.output_path), task.max_xcom_bytes, task.destination.overflow_path
        )
        files = destination.for_files()
        if files is None or (small and not destination.output_path):
            if not small:
                task.log.warning(
                    "The answer to request %s is %d bytes, over max_xcom_bytes (%d), and no output_path says where to "
                    "store it: it goes into XCom in full",
                    result.request_id,
                    len(encoded),
                    task.max_xcom_bytes,
                )
            return carried.value
        path = files.file(result.request_id, ".answer.txt" if task.answer_type is None else ".answer.json")
        path.write_bytes(encoded)
        task.result_uri = str(path)
        return carried.value if small else manifest_of(result, self._model, [str(path)], len(encoded))

    def _result(self, value: Any, request_id: str) -> RequestResult:
        """Return the body of a request from what settling it gave: itself, or the manifest of where it was landed."""
        if isinstance(value, dict) and "uris" in value:
            value = stored_result(request_id, self._task.destination, value)
        if isinstance(value, dict) and value.get("recovered"):
            # The history knows of an output file at most, and that is not what the model said.
            raise SegmindRequestExpiredError(
                f"The answer to request {request_id!r} is gone: Segmind keeps one for an hour after submission, and "
                "its request history holds no text. It was billed. on_expired='resubmit' pays for a new one; "
                "output_path keeps this from happening.",
                request_id=request_id,
            )
        if not isinstance(value, dict) or "uris" in value:
            # A reply that is nothing but an address counts as media when it is landed; Segmind has the text.
            return self._client.get_result(request_id)
        return RequestResult.model_validate({"status": "COMPLETED", **value, "request_id": request_id})

    def _read(self, result: RequestResult) -> ChatReply:
        return read_reply(result.to_json(), model=self._model, api_format=self._task.api_format)

    @cached_property
    def _body(self) -> Mapping[str, Any]:
        return self._task.build_inputs(self._context)

    def _first_inputs(self) -> Mapping[str, Any]:
        return self._body

    def _submission(self, inputs: Inputs, before: Spent, state: TaskState) -> Submission:
        task = self._task
        return Submission(
            client=self._client,
            state=state,
            model=self._model,
            inputs=inputs,
            connection=self._connection,
            policies=task.policies,
            log=task.log,
            before=before.to_json() if before.requests else None,
            prepare=lambda body: upload_files(task, body),
        )

    def _state(self, after: str | None = None) -> TaskState:
        part = "" if after is None else part_after(after)
        return task_state_for(self._context, self._task.state_folder, part, self._task.record_path)
