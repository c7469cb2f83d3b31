"""
What a type checker knows about the arguments of operators besides their signatures; imported by type checkers only.

Airflow's operators take each other's arguments as ``**kwargs``, in which a checker finds no misspelt name. Ours name
them: ``**kwargs: Unpack[OperatorArguments]``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, Required, TypeAlias, TypedDict

if TYPE_CHECKING:
    from airflow_provider_segmind.compat import DAG, Context, TaskGroup

    Callback = Callable[[Context], Any]


class GivenLater(Protocol):
    """
    A value that Airflow resolves when the task runs: the output of another task, ``dag.param(…)``, ``literal(…)``.

    Structural, because the class has a different name in each Airflow version.
    """

    def iter_references(self) -> Iterable[tuple[Any, str]]:
        """Return the tasks that it comes from."""


class StoragePath(Protocol):
    """An ObjectStoragePath, which in some versions is not an ``os.PathLike``; by its shape, for the same reason."""

    def joinpath(self, *segments: Any) -> Any:
        """Return a path below this one."""


AnyPath: TypeAlias = os.PathLike[str] | StoragePath


class CommonArguments(TypedDict, total=False):
    """
    Arguments that Airflow's ``BaseOperator`` takes, of all supported versions, without ``task_id`` and
    ``multiple_outputs``.

    One that the installed version does not have is an error when the DAG is parsed.
    """

    owner: str
    email: str | Sequence[str] | None
    email_on_retry: bool
    email_on_failure: bool
    retries: int | None
    retry_delay: timedelta | float
    retry_exponential_backoff: bool | float
    max_retry_delay: timedelta | float | None
    retry_policy: Any
    start_date: datetime | None
    end_date: datetime | None
    depends_on_past: bool
    ignore_first_depends_on_past: bool
    wait_for_past_depends_before_skipping: bool
    wait_for_downstream: bool
    dag: DAG | None
    params: MutableMapping[str, Any] | None
    default_args: dict[str, Any] | None
    priority_weight: int
    weight_rule: Any
    queue: str
    pool: str | None
    pool_slots: int
    sla: timedelta | None
    execution_timeout: timedelta | None
    on_execute_callback: Callback | list[Callback] | None
    on_failure_callback: Callback | list[Callback] | None
    on_success_callback: Callback | list[Callback] | None
    on_retry_callback: Callback | list[Callback] | None
    on_skipped_callback: Callback | list[Callback] | None
    pre_execute: Callable[[Context], None] | None
    post_execute: Callable[[Context, Any], None] | None
    trigger_rule: str
    resources: dict[str, Any] | None
    run_as_user: str | None
    task_concurrency: int | None
    map_index_template: str | None
    max_active_tis_per_dag: int | None
    max_active_tis_per_dagrun: int | None
    executor: str | None
    executor_config: dict[str, Any] | None
    do_xcom_push: bool
    inlets: Any
    outlets: Any
    task_group: TaskGroup | None
    doc: str | None
    doc_md: str | None
    doc_json: str | None
    doc_yaml: str | None
    doc_rst: str | None
    task_display_name: str | None
    logger_name: str | None
    allow_nested_operators: bool
    render_template_as_native_obj: bool | None


class OperatorArguments(CommonArguments, total=False):
    """Arguments that every operator takes."""

    task_id: Required[str]
    multiple_outputs: bool


class SensorArguments(OperatorArguments, total=False):
    """Arguments that every sensor takes; ``timeout`` is in its signature."""

    poke_interval: timedelta | float
    soft_fail: bool
    mode: str
    exponential_backoff: bool
    max_wait: timedelta | float | None
    silent_fail: bool
    never_fail: bool


class DecoratorArguments(CommonArguments, total=False):
    """Arguments that a task decorator takes besides; the name of the function is the default of ``task_id``."""

    task_id: str
