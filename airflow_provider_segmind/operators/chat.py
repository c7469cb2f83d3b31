"""Prompt a chat model and return its answer: text, or data of a type."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_segmind.arguments import (
    ChatPrompt,
    check_choice,
    check_limits,
    check_question,
    check_request,
    read_output_type,
    without_bytes,
)
from airflow_provider_segmind.defaults import MAX_REPAIRS, OnLargeFile
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.operators.request import SegmindRunOperator
from airflow_provider_segmind.rendering import named_files, read_text_file, unmasked

if TYPE_CHECKING:
    from airflow_provider_segmind.chat.attachments import Attachment
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.execution.chat import ChatExecution, ChatRequest, ChatSettings


class SegmindChatOperator(SegmindRunOperator):
    """
    Prompt a chat model, in one task that needs no worker slot while it waits, and return its answer.

    ``prompt``, ``system``, ``messages`` and ``files`` mean the same for every model; the form of the request follows
    from the model's name. For anything but chat use
    :class:`~airflow_provider_segmind.operators.request.SegmindRunOperator`.

    **XCom**: as return value the text, or plain JSON data when there is an ``output_type``; a manifest with ``uri``
    when that is larger than ``max_xcom_bytes``. Keys: ``usage`` (tokens), ``cost`` (USD as billed), ``request_id``,
    ``finish_reason``. Usage and cost are those of all requests this answer took.

    **What is paid**: one request; up to ``max_repairs`` more when the answer was cut off (with a larger output cap) or
    is not of ``output_type``. Each is recorded by itself, so that **a retry, a clear, a
    killed worker or triggerer** continues where the task was and pays none of them again.

    **Templated**: ``prompt``, ``system``, ``messages``, ``files``, ``options``, ``model``, ``output_path``,
    ``inputs_schema``, ``segmind_conn_id``, ``state_path``. A ``prompt`` or ``system`` that is as a whole the path of a
    ``.md``, ``.txt`` or ``.json`` file, without spaces and braces, is read from that file. A value from XCom
    arrives byte for byte: it is neither rendered nor taken for a path.

    :param prompt: the prompt; the last message when ``messages`` are given too.
    :param system: the system prompt.
    :param messages: messages of ``role`` and ``content``, or Gemini's own object with ``contents``.
    :param files: paths, ObjectStoragePath URIs, ``http(s)`` addresses or bytes, sent with the prompt.
    :param options: other parameters of the model (``temperature``, ``max_tokens``…), sent unchanged.
    :param api_format: ``gemini``, ``openai`` or ``anthropic``, for a model whose name does not show its family.
    :param output_type: what the answer must be: a pydantic model, a type pydantic can adapt, or a JSON Schema.
    :param max_repairs: how many follow-ups, each a paid request, an answer may take that was cut off or is not of
        ``output_type``; 0 never pays for a second request.
    :param max_inline_bytes: largest file sent inside the request, in bytes; 7,000,000 when None.
    :param large_files: a file is larger: ``fail``, or ``upload`` it to Segmind's storage, where anyone who has its
        address can read it.
    :raises AirflowFailException: where a retry cannot help, an answer that cannot be used included; the message says
        how many requests were paid.
    """

    template_fields: Sequence[str] = (
        *("prompt", "system", "messages", "files", "options"),
        *(field for field in SegmindRunOperator.template_fields if field != "inputs"),
    )
    late_fields: ClassVar[Sequence[str]] = (
        *SegmindRunOperator.late_fields,
        *("api_format", "output_type", "max_repairs", "max_inline_bytes", "large_files"),
    )
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
        prompt: str | None = None,
        system: str | None = None,
        messages: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
        files: Sequence[str | os.PathLike[str] | bytes | Attachment] | None = None,
        options: Mapping[str, Any] | None = None,
        api_format: str | None = None,
        output_type: Any = None,
        max_repairs: int = MAX_REPAIRS,
        max_inline_bytes: int | None = None,
        large_files: OnLargeFile = "fail",
        **kwargs: Any,
    ) -> None:
        if "inputs" in kwargs:
            raise SegmindConfigError("'inputs' is built by this operator: set prompt, messages, files and options.")
        super().__init__(inputs={}, **kwargs)
        check_question(prompt=prompt, system=system, messages=messages, files=files)
        check_request(model=self.model, api_format=api_format, options=options, output_type=output_type)
        self.prompt = prompt
        self.system = system
        self.messages = messages
        self.files = without_bytes(files)
        self.options = options
        self.api_format = api_format
        self.output_type = output_type
        self.max_repairs = max_repairs
        self.max_inline_bytes = max_inline_bytes
        self.large_files = large_files
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
        check_limits(max_repairs=self.max_repairs, max_inline_bytes=self.max_inline_bytes)
        check_choice("large_files", self.large_files, OnLargeFile)

    def chat_prompt(self, context: Context) -> ChatPrompt:
        """Return the prompt and what is sent with it."""
        return ChatPrompt(unmasked(self.prompt), unmasked(self.system), unmasked(self.messages), self.files)

    def build_inputs(self, context: Context) -> Mapping[str, Any]:
        """
        Load the files and return the body of the first request, checked as ``validate_inputs`` says.

        :raises SegmindConfigError: it cannot work; nothing was sent.
        """
        return self._build_request(self._chat_settings(context), context).inputs

    def _build_request(self, settings: ChatSettings, context: Context) -> ChatRequest:
        from airflow_provider_segmind.execution.chat import build_request

        for field in self._unread:
            self.log.warning("%r resembles the path of a file but is sent unchanged: this task is mapped", field)
        request = build_request(settings, self.chat_prompt(context))
        self.check_inputs(request.inputs)
        return request

    def _chat_settings(self, context: Context) -> ChatSettings:
        from airflow_provider_segmind.execution.chat import ChatSettings

        request = self._settings(context)
        # The bodies go beside the answer, under the names of their requests, and are read whole.
        bodies = replace(request.destination, output_path=request.destination.folder, max_xcom_bytes=None)
        dag = self.get_dag()
        return ChatSettings(
            request=replace(request, destination=bodies),
            destination=request.destination,
            output_type=read_output_type(self.output_type),
            options=self.options,
            api_format=self.api_format,
            max_repairs=self.max_repairs,
            max_inline_bytes=self.max_inline_bytes,
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
