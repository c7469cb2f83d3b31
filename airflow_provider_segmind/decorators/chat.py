"""``@task.segmind``: a function returns the prompt, the task returns the model's answer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, Protocol, Unpack, overload

from airflow_provider_segmind.argument_names import check_argument_names
from airflow_provider_segmind.arguments import ChatPrompt
from airflow_provider_segmind.compat import (
    SET_DURING_EXECUTION,
    DecoratedOperator,
    context_merge,
    determine_kwargs,
    task_decorator_factory,
)
from airflow_provider_segmind.defaults import (
    DEFAULT_CONNECTION,
    MAX_REPAIRS,
    MAX_XCOM_BYTES,
    RESULT_LIFETIME,
    SYNC_WAIT,
)
from airflow_provider_segmind.exceptions import SegmindConfigError, type_name
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.rendering import renders_natively, unmasked

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow_provider_segmind.chat.attachments import Attachment
    from airflow_provider_segmind.compat import Context, TaskDecoratorCollection
    from airflow_provider_segmind.defaults import (
        OnBudget,
        OnExpired,
        OnFailed,
        OnLargeFile,
        OnStale,
        OnUnknown,
        ReuseAnswers,
    )
    from airflow_provider_segmind.type_hints import AnyPath, DecoratorArguments, GivenLater

Params = ParamSpec("Params")
_PROMPT_KEYS = ("prompt", "system", "messages", "files")


class _SegmindDecoratedOperator(DecoratedOperator, SegmindChatOperator):
    """
    Send a chat model the prompt that a function returns.

    The function returns the prompt, or a dict of ``prompt``, ``system``, ``messages`` and ``files``. What it returns
    is data: Jinja never renders it and it is never taken for a path; otherwise a stray ``{{ conn… }}`` in a customer's
    letter would read secrets.

    The function runs again in a retry, and after a deferral when a follow-up has to be sent. It should return the same
    prompt every time: a changed prompt is a new paid request.
    """

    custom_operator_name = "@task.segmind"
    template_fields: Sequence[str] = (
        *DecoratedOperator.template_fields,
        *(field for field in SegmindChatOperator.template_fields if field not in ("prompt", "messages")),
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {
        **DecoratedOperator.template_fields_renderers,
        "system": "md",
        "options": "json",
        "inputs_schema": "json",
    }

    decided_arguments: ClassVar[Mapping[str, str]] = {
        **SegmindChatOperator.decided_arguments,
        **dict.fromkeys(("prompt", "messages"), "the function of @task.segmind returns it"),
    }

    if not hasattr(SegmindChatOperator, "xcom_push"):
        # Airflow 3.0's DecoratedOperator.execute reads it when the work is done and paid, and does nothing with it.
        xcom_push = None

    def __init__(
        self,
        *,
        python_callable: Callable[..., Any],
        op_args: Sequence[Any] | None = None,
        op_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            prompt=SET_DURING_EXECUTION,
            **kwargs,
        )

    def execute(self, context: Context) -> Any:
        """
        Call the function and send the request; by now Airflow has stored the function's arguments in their masked form.
        """
        self.op_args, self.op_kwargs = unmasked(self.op_args), unmasked(self.op_kwargs)
        return super().execute(context)

    def chat_prompt(self, context: Context) -> ChatPrompt:
        """Call the function and return its prompt."""
        # Airflow 2.11 warns about each deprecated name that is read; copying reads none.
        names: Any = copy(context)
        op_args, system = unmasked(self.op_args), unmasked(self.system)
        context_merge(names, unmasked(self.op_kwargs))
        kwargs = determine_kwargs(self.python_callable, op_args, names)
        returned = self.python_callable(*op_args, **kwargs)
        if isinstance(returned, str):
            return ChatPrompt(returned, system, None, self.files)
        self._check_returned(returned)
        return ChatPrompt(
            returned.get("prompt"),
            returned.get("system", system),
            returned.get("messages"),
            returned.get("files", self.files),
        )

    def _check_returned(self, returned: Any) -> None:
        native = ""
        if renders_natively(self):
            native = (
                " Airflow renders the function's arguments with render_template_as_native_obj, which makes a number, a "
                "list, a dict or None of a template that looks like one: return a string, as in str(value)."
            )
        if not isinstance(returned, Mapping):
            raise SegmindConfigError(
                f"The function of @task.segmind returned {type_name(returned)}: it must return the prompt, or a dict "
                f"of {', '.join(_PROMPT_KEYS)}. Nothing was sent.{native}"
            )
        for name in returned.keys() - set(_PROMPT_KEYS):
            raise SegmindConfigError(
                f"The function of @task.segmind returned a dict with {name!r}: it may have {', '.join(_PROMPT_KEYS)} "
                f"only. Nothing was sent.{native}"
            )
        for name in ("prompt", "system"):
            if not isinstance(returned.get(name, ""), str | None):
                raise SegmindConfigError(
                    f"The function of @task.segmind returned a dict whose {name!r} is {type_name(returned[name])}: it "
                    f"must be a string. Nothing was sent.{native}"
                )


class SegmindTask(Protocol[Params]):
    """A decorated function: a call in a DAG creates a task and returns its future output."""

    def __call__(self, *args: Params.args, **kwargs: Params.kwargs) -> Any:
        """Create the task."""

    def expand(self, **kwargs: Any) -> Any:
        """Create one task instance for each value."""

    def expand_kwargs(self, kwargs: Any, *, strict: bool = True) -> Any:
        """Create one task instance for each mapping."""

    def partial(self, **kwargs: Any) -> SegmindTask[...]:
        """Set arguments that all mapped task instances share."""

    def override(self, **kwargs: Any) -> SegmindTask[Params]:
        """Change arguments of the operator for one use."""


class SegmindTaskDecorator(Protocol):
    """The signature of ``@task.segmind``, with and without arguments."""

    @overload
    def __call__(self, python_callable: Callable[Params, Any], /) -> SegmindTask[Params]: ...

    @overload
    def __call__(
        self,
        *,
        multiple_outputs: bool = False,
        model: str | GivenLater | None = None,
        system: str | GivenLater | None = None,
        files: Sequence[str | AnyPath | bytes | Attachment | GivenLater] | GivenLater | None = None,
        options: Mapping[str, Any] | GivenLater | None = None,
        output_type: Any = None,
        inputs_schema: bool | Mapping[str, Any] | str | AnyPath | GivenLater | None = None,
        output_path: str | AnyPath | GivenLater | None = None,
        answers_path: str | AnyPath | GivenLater | None = None,
        segmind_conn_id: str | GivenLater = DEFAULT_CONNECTION,
        deferrable: bool | GivenLater = ...,
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
        **kwargs: Unpack[DecoratorArguments],
    ) -> Callable[[Callable[Params, Any]], SegmindTask[Params]]: ...


def _with_signature(decorator: Callable[..., Any]) -> SegmindTaskDecorator:
    """Let editors, ``help()`` and type checkers show all arguments: the operator's but those the function returns."""
    own = [one for one in inspect.signature(decorator).parameters.values() if one.kind is not one.VAR_KEYWORD]
    theirs = inspect.signature(SegmindChatOperator).parameters.values()
    decided = _SegmindDecoratedOperator.decided_arguments
    decorator.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*own, *(one for one in theirs if one.name not in decided)]
    )
    return decorator


@_with_signature
def segmind_task(python_callable: Any = None, multiple_outputs: bool = False, **kwargs: Any) -> Any:
    """
    Turn a function that returns a prompt into a task that returns the answer; registered as ``@task.segmind``.

    :param multiple_outputs: also push each key of an answer that is an object.
    :param kwargs: as :class:`~airflow_provider_segmind.operators.chat.SegmindChatOperator` takes them.
    """
    if python_callable is None:
        return partial(segmind_task, multiple_outputs=multiple_outputs, **kwargs)
    name = getattr(python_callable, "__name__", None)
    check_argument_names(_SegmindDecoratedOperator, kwargs, task_id=kwargs.get("task_id", name))
    if inspect.iscoroutinefunction(python_callable) or inspect.isasyncgenfunction(python_callable):
        raise SegmindConfigError(
            f"The function of @task.segmind {name!r} is async: it must be a plain function, which returns the prompt."
        )
    # Airflow would infer multiple_outputs from the function's return type, which is that of the prompt.
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=bool(multiple_outputs),
        decorated_operator_class=_SegmindDecoratedOperator,
        **kwargs,
    )


if TYPE_CHECKING:

    class TaskDecorators(TaskDecoratorCollection):
        """Airflow's ``task``, with the arguments of ``@task.segmind``."""

        segmind: SegmindTaskDecorator

    task = TaskDecorators()
else:
    # Airflow's own object; imported from here, its type also has the arguments of @task.segmind, which Airflow's stub
    # lacks.
    from airflow_provider_segmind.compat import task as task
