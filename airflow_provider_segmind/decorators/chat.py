"""``@task.segmind``: a function returns the prompt, the task returns the model's answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, Protocol, overload

from airflow_provider_segmind.arguments import ChatPrompt
from airflow_provider_segmind.compat import (
    SET_DURING_EXECUTION,
    DecoratedOperator,
    context_merge,
    determine_kwargs,
    task_decorator_factory,
)
from airflow_provider_segmind.defaults import MAX_REPAIRS
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.operators.chat import SegmindChatOperator
from airflow_provider_segmind.rendering import unmasked

if TYPE_CHECKING:
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.defaults import OnExpired, OnFailed, OnLargeFile, OnStale, OnUnknown


Params = ParamSpec("Params")
_PROMPT_KEYS = ("prompt", "system", "messages", "files")


class _SegmindDecoratedOperator(DecoratedOperator, SegmindChatOperator):
    """
    Send a chat model the prompt that a function returns.

    The function returns the prompt, or a dict of ``prompt``, ``system``, ``messages`` and ``files``. What it returns
    is data: Jinja never renders it and it is never taken for a path, or a stray ``{{ conn… }}`` in a customer's letter
    would read secrets.

    The function runs again in a retry, and after a deferral when a follow-up has to be sent: let it return the same
    every time, as a changed prompt is a new paid request.
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
        for name in ("prompt", "messages"):
            if name in kwargs:
                raise SegmindConfigError(
                    f"{name!r} is returned by the function of @task.segmind: it is not an argument."
                )
        super().__init__(
            python_callable=python_callable,
            op_args=op_args,
            op_kwargs=op_kwargs,
            prompt=SET_DURING_EXECUTION,
            **kwargs,
        )

    def execute(self, context: Context) -> Any:
        """Run the function and the request; Airflow reads its arguments, whose masked form is stored by then."""
        self.op_args, self.op_kwargs = unmasked(self.op_args), unmasked(self.op_kwargs)
        return super().execute(context)

    def chat_prompt(self, context: Context) -> ChatPrompt:
        """Call the function and return its prompt."""
        names: Any = dict(context)
        op_args, system = unmasked(self.op_args), unmasked(self.system)
        context_merge(names, unmasked(self.op_kwargs))
        kwargs = determine_kwargs(self.python_callable, op_args, names)
        returned = self.python_callable(*op_args, **kwargs)
        if isinstance(returned, str):
            return ChatPrompt(returned, system, None, self.files)
        if not isinstance(returned, Mapping):
            raise SegmindConfigError(
                f"The function of @task.segmind returned a {type(returned).__name__}: it must return the prompt, or a "
                f"dict of {', '.join(_PROMPT_KEYS)}. Nothing was sent."
            )
        for name in returned.keys() - set(_PROMPT_KEYS):
            raise SegmindConfigError(
                f"The function of @task.segmind returned a dict with {name!r}: it may have "
                f"{', '.join(_PROMPT_KEYS)} only. Nothing was sent."
            )
        return ChatPrompt(
            returned.get("prompt"),
            returned.get("system", system),
            returned.get("messages"),
            returned.get("files", self.files),
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


@overload
def segmind_task(python_callable: Callable[Params, Any]) -> SegmindTask[Params]: ...


@overload
def segmind_task(
    *,
    multiple_outputs: bool = False,
    task_id: str = ...,
    model: str | None = None,
    system: str | None = None,
    files: Sequence[Any] | None = None,
    options: Mapping[str, Any] | None = None,
    api_format: str | None = None,
    output_type: Any = None,
    max_repairs: int = MAX_REPAIRS,
    max_inline_bytes: int | None = None,
    large_files: OnLargeFile = "fail",
    validate_inputs: bool | None = None,
    inputs_schema: Mapping[str, Any] | str | None = None,
    dry_run: bool = False,
    segmind_conn_id: str = ...,
    state_path: str | None = None,
    deferrable: bool = ...,
    sync_wait: float = ...,
    poll_interval: float | None = None,
    timeout: float = ...,
    output_path: str | None = None,
    max_xcom_bytes: int = ...,
    on_stale: OnStale = "resubmit",
    on_unknown: OnUnknown = "fail",
    on_failed: OnFailed = "fail",
    on_expired: OnExpired = "recover",
    max_resubmits: int = ...,
    mask_prompts: bool | None = None,
    retries: int = ...,
    **kwargs: Any,
) -> Callable[[Callable[Params, Any]], SegmindTask[Params]]: ...


def segmind_task(python_callable: Any = None, multiple_outputs: bool = False, **kwargs: Any) -> Any:
    """
    Turn a function that returns a prompt into a task that returns the answer; registered as ``@task.segmind``.

    Import it by this name to have its arguments type-checked: to a type checker, every provider's ``@task.…`` takes
    anything.

    :param multiple_outputs: also push each key of an answer that is an object.
    :param kwargs: as :class:`~airflow_provider_segmind.operators.chat.SegmindChatOperator` takes them.
    """
    # Airflow would infer multiple_outputs from the function's return type, which is that of the prompt.
    return task_decorator_factory(
        python_callable=python_callable,
        multiple_outputs=bool(multiple_outputs),
        decorated_operator_class=_SegmindDecoratedOperator,
        **kwargs,
    )
