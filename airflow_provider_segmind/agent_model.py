"""
Segmind as the model of pydantic-ai agents, so that ``@task.llm(llm_conn_id="segmind_default")`` works.

Airflow's common-ai provider looks up the hook of the connection's type and calls its ``create_agent``. The agent asks
its model once for each step. Each of these requests is handled like a request of a chat task: it has its own
submission record, and goes through the rate limiter, budgets and spend record. The record is found by the task
instance, the digest of the body, and how often this try has sent the same body before. A retry therefore sends the same
bodies again, finds their records, and gets the answers that were paid for, up to the first step that no try has
reached.

The calls block the event loop, which is the task's own: Airflow's API for tasks is synchronous, and an execution
timeout must be able to end the wait. Agents that run at the same time in one task wait for one another.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic_ai.messages import (
    AudioUrl,
    BinaryContent,
    CachePoint,
    DocumentUrl,
    ImageUrl,
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    SystemPromptPart,
    TextContent,
    TextPart,
    ThinkingPart,
    UserPromptPart,
    VideoUrl,
)
from pydantic_ai.models import Model, ModelRequestParameters, check_allow_model_requests
from pydantic_ai.profiles import ModelProfile
from pydantic_ai.settings import ModelSettings
from pydantic_ai.usage import RequestUsage

from airflow_provider_segmind.chat.attachments import MAX_INLINE_BYTES, Attachment, too_large_inline
from airflow_provider_segmind.chat.messages import build_chat_inputs
from airflow_provider_segmind.chat.model_families import family_of
from airflow_provider_segmind.chat.output_type import OutputType
from airflow_provider_segmind.chat.replies import TokenUsage
from airflow_provider_segmind.chat.reply_policy import Spent
from airflow_provider_segmind.client.submission import json_digest
from airflow_provider_segmind.compat import Context, PydanticAIHook, get_current_context
from airflow_provider_segmind.exceptions import SegmindConfigError, type_name
from airflow_provider_segmind.execution.chat import ChatExecution, ChatRequest, ChatSettings
from airflow_provider_segmind.execution.request import RequestSettings
from airflow_provider_segmind.failures import earlier_try, task_failures
from airflow_provider_segmind.hooks.budgets import task_owner
from airflow_provider_segmind.result_storage import ResultDestination
from airflow_provider_segmind.spend.recorder import recorder_for
from airflow_provider_segmind.task_state import TaskState, task_state_for
from airflow_provider_segmind.telemetry.requests import telemetry_of

if TYPE_CHECKING:
    from pydantic_ai import Agent

    from airflow_provider_segmind.hooks.segmind import SegmindHook

log = logging.getLogger(__name__)
MODEL_PREFIX = "segmind:"
"""What may precede the model in ``model_id``, as pydantic-ai names a vendor."""
SENT_SETTINGS = ("max_tokens", "temperature", "top_p", "top_k", "seed", "presence_penalty", "frequency_penalty")
"""Settings of pydantic-ai that are sent under the same name; Segmind has no equivalent for the others."""
LONGEST_DIGEST = 24
_sent: dict[str, Counter[str]] = {}
"""How often each body was sent in this process, by try of a task instance."""


def create_agent(hook: SegmindHook, output_type: Any, model_id: str | None, **agent: Any) -> Agent[Any, Any]:
    """
    Make the agent of one task instance. Free; each step of its runs is a paid request.

    :param model_id: the model to run; the connection's default when None.
    :param agent: as for common-ai's hook: ``instructions``, ``spec_file``, and arguments of pydantic-ai's ``Agent``.
    :raises SegmindConfigError: no task is running, or no model is named.
    """
    try:
        context = get_current_context()
    except Exception as error:  # Airflow's versions raise different errors.
        raise SegmindConfigError(
            "create_agent needs a running task: its requests are recorded with the task instance, so that a retry does "
            "not pay again. Nothing was sent."
        ) from error
    model = hook.model_or_default(model_id.removeprefix(MODEL_PREFIX) if model_id else None)
    return _AgentHook(hook.segmind_conn_id, SegmindModel(TaskRequests(hook, context, model))).create_agent(
        output_type, **agent
    )


class _AgentHook(PydanticAIHook):
    """common-ai's hook, which knows how to make an agent, with a given model."""

    def __init__(self, conn_id: str, model: SegmindModel) -> None:
        super().__init__(llm_conn_id=conn_id, model_id=model.model_name)
        self._segmind_model = model

    def get_conn(self) -> Model[Any]:
        """Return the model."""
        return self._segmind_model


class SegmindModel(Model[Any]):
    """
    A chat model at Segmind.

    Structured output is requested with a JSON Schema. Agents with tools are refused before anything is sent, because
    Segmind does not forward tools to models. Streaming is not supported.
    """

    def __init__(self, requests: TaskRequests) -> None:
        profile = ModelProfile(
            supports_tools=False,
            supports_json_schema_output=True,
            supports_json_object_output=False,
            default_structured_output_mode="native",
        )
        super().__init__(profile=profile)
        self._requests = requests

    @property
    def model_name(self) -> str:
        """The model that runs."""
        return self._requests.model

    @property
    def system(self) -> str:
        """The vendor, for traces."""
        return "segmind"

    @property
    def provider(self) -> None:
        """None: the hook's client sends the requests."""
        return

    async def request(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:
        """
        Ask the model once: one paid request, or the answer that an earlier try has paid for.

        :raises SegmindError: the request failed, or its reply cannot be used; says what was billed.
        """
        check_allow_model_requests()
        settings, parameters = self.prepare_request(model_settings, model_request_parameters)
        return self._requests.ask(messages, settings, parameters)


@dataclass(frozen=True, slots=True)
class _Answer:
    """The text of a reply, and the values that the execution pushed to XCom for it."""

    text: str
    pushed: Mapping[str, Any]


class TaskRequests:
    """
    The requests of the agents of one try of a task instance.

    :param context: the context Airflow gives to ``execute``.
    """

    def __init__(self, hook: SegmindHook, context: Context, model: str) -> None:
        self.model = model
        self._hook = hook
        self._context = context
        ti = context["ti"]
        self._sent = _sent.setdefault(f"{task_owner(context)}/{ti.try_number}/{getattr(ti, 'id', '')}", Counter())
        self._spent = Spent()
        self._telemetry = telemetry_of(
            context, hook.get_conn().throttle.counts, conn_id=hook.segmind_conn_id, model=model, operation="chat"
        )
        self._open_stores()

    def ask(
        self, messages: Sequence[ModelMessage], settings: ModelSettings | None, parameters: ModelRequestParameters
    ) -> ModelResponse:
        """Send one request, or find the one an earlier try sent; return its reply in the form pydantic-ai reads."""
        with task_failures(self._earlier, ended=self._telemetry.send):
            output_type = _output_type(parameters)
            family = family_of(self.model)
            inputs = build_chat_inputs(
                model=self.model,
                system=_instructions(messages, parameters),
                messages=list(_conversation(messages)),
                options=_options(settings),
                response_format=output_type.response_format(family) if output_type else None,
            )
            answer = self._answer(inputs)
        return self._response(answer, output_type)

    def _open_stores(self) -> None:
        """
        Read a record now, so that the stores of records and results are open before the agent's event loop runs.

        Airflow keeps an open store for the process, but cannot open one in S3 inside a running loop: its Amazon
        provider runs a loop of its own to find the credentials, and without them S3 refuses every call.
        """
        with task_failures(self._earlier):
            self._task_state("agent").read()

    def _earlier(self) -> str | None:
        if self._spent.requests:
            return f"{self._spent.requests} earlier requests of this agent have been answered"
        return earlier_try(self._context)

    def _answer(self, inputs: Mapping[str, Any]) -> _Answer:
        digest = json_digest({"model": self.model, "inputs": inputs})[:LONGEST_DIGEST]
        part = f"agent-{digest}-{self._sent[digest]}"
        self._sent[digest] += 1
        pushed: dict[str, Any] = {}
        execution = ChatExecution(
            ChatSettings(request=self._settings(), destination=ResultDestination(max_xcom_bytes=None), max_repairs=0),
            lambda: ChatRequest(inputs, {}),
            client=self._hook.get_conn(),
            task_state=lambda after: self._task_state(f"{part}-{after}" if after else part),
            log=log,
            defer=_never,
            xcom_push=lambda key, value: pushed.__setitem__(key, value),
        )
        return _Answer(str(execution.start().body), pushed)

    def _settings(self) -> RequestSettings:
        hook, conn_id = self._hook, self._hook.segmind_conn_id
        return RequestSettings(
            model=self.model,
            segmind_conn_id=conn_id,
            # A try hours later needs the reply, which Segmind drops after one.
            destination=ResultDestination(hook.output_folder[0], max_xcom_bytes=None),
            spend=recorder_for(self._context, conn_id, log=log),
            budget=hook.budget_guard(task_owner(self._context), log=log),
            telemetry=self._telemetry,
        )

    def _task_state(self, part: str) -> TaskState:
        return task_state_for(self._context, None, part, *self._hook.output_folder)

    def _response(self, answer: _Answer, output_type: OutputType | None) -> ModelResponse:
        pushed = answer.pushed
        usage = TokenUsage(**pushed["usage"]) if pushed.get("usage") else TokenUsage()
        self._spent = self._spent.plus(pushed.get("cost"), usage)
        self._push(pushed.get("request_id"))
        parsed = output_type.parse(answer.text) if output_type else None
        # A reply that does not match the type goes to the agent unchanged; the agent decides whether to ask again.
        text = json.dumps(parsed.data) if parsed is not None and parsed.ok else answer.text
        return ModelResponse(
            parts=[TextPart(text)],
            usage=RequestUsage(
                input_tokens=usage.input_tokens or 0,
                output_tokens=usage.output_tokens or 0,
                cache_read_tokens=usage.cached_tokens or 0,
            ),
            model_name=self.model,
            provider_name="segmind",
            provider_response_id=pushed.get("request_id"),
            provider_details={"cost": pushed.get("cost")},
            finish_reason="stop",
        )

    def _push(self, request_id: str | None) -> None:
        if not getattr(self._context.get("task"), "do_xcom_push", True):
            return
        values = {"request_id": request_id, "cost": self._spent.cost, "usage": dict(self._spent.usage or {})}
        for key, value in values.items():
            self._context["ti"].xcom_push(key=key, value=value)


def _never(**_: Any) -> NoReturn:
    raise AssertionError("an agent's request never defers")


def _output_type(parameters: ModelRequestParameters) -> OutputType | None:
    if parameters.function_tools or parameters.output_tools:
        names = [tool.name for tool in (*parameters.function_tools, *parameters.output_tools)]
        raise SegmindConfigError(
            f"The agent has tools ({', '.join(names[:5])}), which Segmind does not forward to models. Nothing was "
            "sent. Use an agent without tools, or a connection to another vendor."
        )
    if parameters.output_mode != "native" or parameters.output_object is None:
        return None
    schema = parameters.output_object.json_schema
    return OutputType.from_({**schema, "title": parameters.output_object.name or schema.get("title")})


def _options(settings: ModelSettings | None) -> dict[str, Any]:
    given: Mapping[str, Any] = settings or {}
    found = {name: given[name] for name in SENT_SETTINGS if given.get(name) is not None}
    extra = given.get("extra_body")
    if ignored := sorted(set(given) - {*SENT_SETTINGS, "extra_body"}):
        log.info("Settings that Segmind has no parameter for are not sent: %s", ", ".join(ignored))
    return {**found, **(extra if isinstance(extra, Mapping) else {})}


def _instructions(messages: Sequence[ModelMessage], parameters: ModelRequestParameters) -> str | None:
    if parameters.instruction_parts is not None:
        texts = [part.content for part in parameters.instruction_parts]
    else:
        requests = [message for message in messages if isinstance(message, ModelRequest)]
        texts = [message.instructions for message in requests[-1:] if message.instructions]
    return "\n\n".join(text for text in texts if text.strip()) or None


def _conversation(messages: Sequence[ModelMessage]) -> Iterator[dict[str, Any]]:
    for message in messages:
        if isinstance(message, ModelRequest):
            for part in message.parts:
                yield from _asked(part)
        else:
            yield from _replied(message)


def _asked(part: Any) -> Iterator[dict[str, Any]]:
    if isinstance(part, SystemPromptPart):
        if part.content.strip():
            yield {"role": "system", "content": part.content}
    elif isinstance(part, UserPromptPart):
        given = [part.content] if isinstance(part.content, str) else part.content
        yield {"role": "user", "content": [found for each in given if (found := _content(each)) is not None]}
    elif isinstance(part, RetryPromptPart) and part.tool_name is None:
        yield {"role": "user", "content": part.model_response()}
    else:
        raise _refused(part)


def _replied(message: ModelResponse) -> Iterator[dict[str, Any]]:
    text = ""
    for part in message.parts:
        if isinstance(part, TextPart):
            text += part.content
        elif not isinstance(part, ThinkingPart):
            raise _refused(part)
    if text.strip():
        yield {"role": "assistant", "content": text}


def _content(part: Any) -> str | Attachment | None:
    if isinstance(part, CachePoint):
        return None
    if isinstance(part, str):
        return part
    if isinstance(part, TextContent):
        return str(part.content)
    if isinstance(part, BinaryContent):
        if len(part.data) > MAX_INLINE_BYTES:
            raise too_large_inline("A file of the prompt", MAX_INLINE_BYTES)
        return Attachment(media_type=part.media_type, data=part.data)
    if isinstance(part, ImageUrl | AudioUrl | DocumentUrl | VideoUrl):
        try:
            media_type = part.media_type
        except ValueError:
            media_type = None
        return Attachment.from_url(part.url, media_type=media_type)
    raise _refused(part)


def _refused(part: Any) -> SegmindConfigError:
    return SegmindConfigError(
        f"The conversation has {type_name(part)}, which cannot be sent to Segmind. Nothing was sent."
    )
