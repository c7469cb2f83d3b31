"""Prompt a chat model and return its answer: text, or data of a type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from airflow_provider_segmind.arguments import (
    ChatPrompt,
    check_choice,
    check_multiple_outputs,
    check_question,
    check_repairs,
    check_request,
    read_output_type,
    without_bytes,
)
from airflow_provider_segmind.compat import conf
from airflow_provider_segmind.defaults import (
    DEFAULT_CONNECTION,
    MAX_REPAIRS,
    MAX_XCOM_BYTES,
    RESULT_LIFETIME,
    SYNC_WAIT,
    OnBudget,
    OnExpired,
    OnFailed,
    OnLargeFile,
    OnStale,
    OnUnknown,
    ReuseAnswers,
)
from airflow_provider_segmind.exceptions import before_sending
from airflow_provider_segmind.operators.request import SegmindRunOperator
from airflow_provider_segmind.rendering import named_files, once_rendered, read_text_file, unmasked

if TYPE_CHECKING:
    from airflow_provider_segmind.chat.attachments import Attachment
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.execution.chat import ChatExecution, ChatRequest, ChatSettings
    from airflow_provider_segmind.telemetry.tracing import Operation
    from airflow_provider_segmind.type_hints import AnyPath, GivenLater, OperatorArguments


class SegmindChatOperator(SegmindRunOperator):
    """
    Prompt a chat model, in one task that needs no worker slot while it waits, and return its answer.

    ``prompt``, ``system``, ``messages`` and ``files`` mean the same for every model; the form of the request follows
    from the model's name. For anything but chat use
    :class:`~airflow_provider_segmind.operators.request.SegmindRunOperator`.

    **XCom**: as return value the text, or plain JSON data when there is an ``output_type``; a manifest with ``uri``
    when that is larger than ``max_xcom_bytes``. Keys: ``usage`` (tokens), ``cost`` (USD as billed), ``request_id``,
    ``finish_reason``. Usage and cost are those of all requests this answer took. With ``reuse_answers``, an answer that
    was paid for before costs 0, has the ``request_id`` of the request that was paid for, and the key ``reused``.

    **What is paid**: one request; up to ``max_repairs`` more when the answer was cut off (with a larger output cap) or
    is not of ``output_type``. Each has a record of its own, so that **a retry, a clear, a
    killed worker or triggerer** continues where the task was and pays none of them again.

    **Templated**: ``prompt``, ``system``, ``messages``, ``files``, ``options``, ``model``, ``output_path``,
    ``answers_path``, ``inputs_schema``, ``segmind_conn_id``, ``state_path``. A ``prompt`` or ``system`` that consists
    of nothing but the path of a ``.md``, ``.txt`` or ``.json`` file, without spaces and braces, is read from that file.
    A value from XCom arrives byte for byte: it is neither rendered nor taken for a path.

    *What to ask*

    :param prompt: the prompt; the last message when ``messages`` are given too.
    :param system: the system prompt.
    :param messages: messages of ``role`` and ``content``, or Gemini's own object with ``contents``.
    :param files: paths, ObjectStoragePath URIs, ``http(s)`` addresses or bytes, sent with the prompt.
    :param options: other parameters of the model (``temperature``, ``max_tokens``…), sent unchanged.
    :param output_type: what the answer must be: a pydantic model, a type pydantic can adapt, or a JSON Schema.

    *Limits*

    :param max_repairs: how many follow-ups, each a paid request, may be sent if an answer was cut off or does not match
        ``output_type``; 0 never pays for a second request.

    *When it goes wrong*

    :param large_files: what to do with a file too large to send in the request (7,000,000 bytes): ``fail``, or
        ``upload`` it to Segmind's storage, where anyone who has its address can read it.

    *Rarely needed*

    :param api_format: ``gemini``, ``openai`` or ``anthropic``, for a model whose name does not show its family;
        otherwise it is prompted in OpenAI's format, with a warning.

    :raises AirflowFailException: if a retry cannot help, for example because the answer cannot be used; the message
        says how many requests were paid for.
    """

    template_fields: Sequence[str] = (
        *("prompt", "system", "messages", "files", "options"),
        *(field for field in SegmindRunOperator.template_fields if field != "inputs"),
    )
    late_fields: ClassVar[Sequence[str]] = (
        *SegmindRunOperator.late_fields,
        *("api_format", "output_type", "max_repairs", "large_files"),
    )
    decided_arguments: ClassVar[Mapping[str, str]] = {
        "inputs": "the request is built from prompt, messages, files and options"
    }
    operation: ClassVar[Operation] = "chat"
    template_fields_renderers: ClassVar[dict[str, str]] = {
        "prompt": "md",
        "system": "md",
        "messages": "json",
        "options": "json",
        "inputs_schema": "json",
    }

    def __init__(
        self,
        *,
        model: str | GivenLater | None = None,
        prompt: str | GivenLater | None = None,
        system: str | GivenLater | None = None,
        messages: Sequence[Mapping[str, Any]] | Mapping[str, Any] | GivenLater | None = None,
        files: Sequence[str | AnyPath | bytes | Attachment | GivenLater] | GivenLater | None = None,
        options: Mapping[str, Any] | GivenLater | None = None,
        output_type: Any = None,
        inputs_schema: bool | Mapping[str, Any] | str | AnyPath | GivenLater | None = None,
        output_path: str | AnyPath | GivenLater | None = None,
        answers_path: str | AnyPath | GivenLater | None = None,
        segmind_conn_id: str | GivenLater = DEFAULT_CONNECTION,
        deferrable: bool | GivenLater = conf.getboolean("operators", "default_deferrable", fallback=False),
        reuse_answers: ReuseAnswers | timedelta | GivenLater = "never",
        budget: str | GivenLater | None = None,
        max_repairs: int | GivenLater = MAX_REPAIRS,
        timeout: float | timedelta | GivenLater = RESULT_LIFETIME,
        dry_run: bool | GivenLater = False,
        on_budget: OnBudget | GivenLater = "fail",
        on_stale: OnStale | GivenLater = "resubmit",
        on_unknown: OnUnknown | GivenLater = "fail",
        on_failed: OnFailed | GivenLater = "fail",
        on_expired: OnExpired | GivenLater = "recover",
        large_files: OnLargeFile | GivenLater = "fail",
        api_format: str | GivenLater | None = None,
        sync_wait: float | timedelta | GivenLater = SYNC_WAIT,
        poll_interval: float | timedelta | GivenLater | None = None,
        max_xcom_bytes: int | GivenLater = MAX_XCOM_BYTES,
        state_path: str | AnyPath | GivenLater | None = None,
        mask_prompts: bool | GivenLater | None = None,
        **kwargs: Unpack[OperatorArguments],
    ) -> None:
        super().__init__(
            inputs={},
            deferrable=deferrable,
            sync_wait=sync_wait,
            poll_interval=poll_interval,
            timeout=timeout,
            output_path=output_path,
            max_xcom_bytes=max_xcom_bytes,
            on_failed=on_failed,
            on_expired=on_expired,
            reuse_answers=reuse_answers,
            answers_path=answers_path,
            model=model,
            inputs_schema=inputs_schema,
            dry_run=dry_run,
            segmind_conn_id=segmind_conn_id,
            state_path=state_path,
            budget=budget,
            on_budget=on_budget,
            on_stale=on_stale,
            on_unknown=on_unknown,
            mask_prompts=mask_prompts,
            **kwargs,
        )
        check_question(prompt=prompt, system=system, messages=messages, files=files)
        check_request(model=self.model, api_format=api_format, options=options, output_type=output_type)
        self.prompt = once_rendered(prompt)
        self.system = once_rendered(system)
        self.messages = once_rendered(messages)
        self.files = without_bytes(files)
        self.options = once_rendered(options)
        self.api_format = once_rendered(api_format)
        self.output_type = output_type
        self.max_repairs = once_rendered(max_repairs)
        self.large_files: OnLargeFile = once_rendered(large_files)
        # A mapped task is created on the worker, where the string may be data from XCom.
        mapped = getattr(self, "_BaseOperator__from_mapped", False)
        named = named_files(prompt=prompt, system=system)
        self._text_files = {} if mapped else named
        self._unread = sorted(named) if mapped else []
        SegmindChatOperator.check_arguments(self)
        self.find_late_fields()

    def check_arguments(self) -> None:
        """Check the arguments that have a range or a choice."""
        super().check_arguments()
        check_repairs(self.max_repairs)
        check_multiple_outputs(self.multiple_outputs, self.output_type)
        check_choice("large_files", self.large_files, OnLargeFile)

    def chat_prompt(self, context: Context) -> ChatPrompt:
        """Return the prompt and what is sent with it."""
        return ChatPrompt(unmasked(self.prompt), unmasked(self.system), unmasked(self.messages), self.files)

    def build_inputs(self, context: Context) -> Mapping[str, Any]:
        """
        Load the files and return the body of the first request, checked against ``inputs_schema``.

        :raises SegmindConfigError: it cannot work; nothing was sent.
        """
        return self._build_request(self._chat_settings(context), context).inputs

    def _build_request(self, settings: ChatSettings, context: Context) -> ChatRequest:
        from airflow_provider_segmind.chat.model_families import assumption
        from airflow_provider_segmind.execution.chat import build_request

        if warning := assumption(settings.request.model, settings.api_format):
            self.log.warning("%s", warning)
        for field in self._unread:
            self.log.warning(
                "%r looks like the path of a file but is sent as it is, because this task is mapped", field
            )
        with before_sending():
            request = build_request(settings, self.chat_prompt(context))
            self.check_inputs(request.inputs)
        return request

    def _chat_settings(self, context: Context) -> ChatSettings:
        from airflow_provider_segmind.execution.chat import ChatSettings

        request = self._settings(context)
        # The bodies go next to the answer, under the names of their requests, and are read whole.
        bodies = replace(request.destination, output_path=request.destination.folder, max_xcom_bytes=None)
        dag = self.get_dag()
        return ChatSettings(
            request=replace(request, destination=bodies, answer_destination=request.destination),
            destination=request.destination,
            output_type=read_output_type(self.output_type),
            options=self.options,
            api_format=self.api_format,
            max_repairs=self.max_repairs,
            large_files=self.large_files,
            dag_folder=Path(dag.fileloc).parent if dag is not None and dag.fileloc else None,
        )

    def _new_execution(self, context: Context) -> ChatExecution:
        from airflow_provider_segmind.execution.chat import ChatExecution

        settings = self._chat_settings(context)
        self.model_used = settings.request.model
        self._execution = execution = ChatExecution(
            settings,
            partial(self._build_request, settings, context),
            client=self.hook.get_conn(),
            task_state=partial(self._task_state, context),
            log=self.log,
            defer=self.defer,
            xcom_push=self._xcom_push(context),
        )
        return execution

    def resolve_template_files(self) -> None:
        """Read ``prompt`` and ``system`` from files at DAG parse."""
        self._read_text_files()

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> None:
        """Render the fields; files are read here where no DAG parse has read them (``dag.test()`` of a script)."""
        self._read_text_files()
        super().render_template_fields(context, jinja_env)

    def _read_text_files(self) -> None:
        while self._text_files:
            field, path = self._text_files.popitem()
            setattr(self, field, read_text_file(self.get_template_env(), field, path))
