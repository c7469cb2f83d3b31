"""
The names of Airflow 2.11 and 3.x in one module.

No other module of this package imports ``airflow``, and the core rooms do not import this one; contracts in
``pyproject.toml`` enforce both. A name is resolved on first use, so that importing this module costs a DAG parse
nothing and each module pays only for the names it uses.

Airflow has the provider ``common-compat`` for this. It is not used because every release of Airflow pins it in its
constraints, and no released pin is new enough.

To add a name, add its modules to :data:`_MODULES`, newest Airflow first, and its import for type checkers.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.sdk import (
        BaseHook,
        BaseOperator,
        BaseOperatorLink,
        BaseSensorOperator,
        Connection,
        Context,
        ObjectStoragePath,
        PokeReturnValue,
        Variable,
        XComArg,
    )
    from airflow.sdk.bases.decorator import DecoratedOperator, determine_kwargs, task_decorator_factory
    from airflow.sdk.configuration import conf
    from airflow.sdk.definitions._internal.types import SET_DURING_EXECUTION
    from airflow.sdk.definitions.context import context_merge
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowSensorTimeout,
        AirflowSkipException,
        TaskDeferred,
    )
    from airflow.sdk.execution_time.context import NEVER_EXPIRE
    from airflow.sdk.execution_time.xcom import XCom
    from airflow.sdk.log import mask_secret
    from airflow.sdk.types import TaskInstanceKey
    from airflow.triggers.base import BaseTrigger, TriggerEvent

_EXCEPTIONS: Final = ("airflow.sdk.exceptions", "airflow.exceptions")
_MODULES: Final[dict[str, tuple[str, ...]]] = {
    "AirflowException": _EXCEPTIONS,
    "AirflowFailException": _EXCEPTIONS,
    "AirflowSensorTimeout": _EXCEPTIONS,
    "AirflowSkipException": _EXCEPTIONS,
    "BaseHook": ("airflow.sdk", "airflow.hooks.base"),
    "BaseOperator": ("airflow.sdk", "airflow.models.baseoperator"),
    "BaseOperatorLink": ("airflow.sdk", "airflow.models.baseoperatorlink"),
    "BaseSensorOperator": ("airflow.sdk", "airflow.sensors.base"),
    "BaseTrigger": ("airflow.triggers.base",),
    "Connection": ("airflow.sdk", "airflow.models.connection"),
    "Context": ("airflow.sdk", "airflow.utils.context"),
    "DbApiHook": ("airflow.providers.common.sql.hooks.sql",),
    "DecoratedOperator": ("airflow.sdk.bases.decorator", "airflow.decorators.base"),
    # From Airflow 3.3 on; an ImportError before.
    "NEVER_EXPIRE": ("airflow.sdk",),
    "ObjectStoragePath": ("airflow.sdk", "airflow.io.path"),
    "PokeReturnValue": ("airflow.sdk", "airflow.sensors.base"),
    "TaskDeferred": _EXCEPTIONS,
    "TaskInstanceKey": ("airflow.sdk.types", "airflow.models.taskinstancekey"),
    "TriggerEvent": ("airflow.triggers.base",),
    "Variable": ("airflow.sdk", "airflow.models.variable"),
    "XCom": ("airflow.sdk.execution_time.xcom", "airflow.models.xcom"),
    "XComArg": ("airflow.sdk", "airflow.models.xcom_arg"),
    "conf": ("airflow.sdk.configuration", "airflow.configuration"),
    "context_merge": ("airflow.sdk.definitions.context", "airflow.utils.context"),
    "determine_kwargs": ("airflow.sdk.bases.decorator", "airflow.utils.operator_helpers"),
    "mask_secret": (
        "airflow.sdk.log",
        "airflow.sdk.execution_time.secrets_masker",
        "airflow.utils.log.secrets_masker",
    ),
    "task_decorator_factory": ("airflow.sdk.bases.decorator", "airflow.decorators.base"),
}


def __getattr__(name: str) -> Any:
    """Resolve a name in the installed Airflow, once."""
    if name == "SET_DURING_EXECUTION":
        value = _set_during_execution()
    elif name in _MODULES:
        value = _resolve(name, _MODULES[name])
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _resolve(name: str, modules: tuple[str, ...]) -> Any:
    """
    Return a name from the first module that has it.

    :raises ImportError: no module has it. A module that exists but cannot be imported raises its own error: continuing
        with the next one would mix the classes of two Airflow versions.
    """
    for module in modules:
        try:
            return getattr(import_module(module), name)
        except AttributeError:
            continue
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise
    raise ImportError(f"No installed Airflow package has {name!r}; tried {', '.join(modules)}.", name=name)


def _set_during_execution() -> Any:
    """Return the marker of an argument that a decorated function provides; Airflow 2.11 has none."""
    try:
        return _resolve("SET_DURING_EXECUTION", ("airflow.sdk.definitions._internal.types",))
    except ImportError:
        unset: Any = _resolve("ArgNotSet", ("airflow.utils.types",))
    # Serialization stores str() of what is not JSON: an address would change the DAG's version with every parse.
    shown = "DYNAMIC (set during execution)"
    return type("SetDuringExecution", (unset,), {"__repr__": lambda _: shown, "serialize": lambda _: shown})()


def airflow_version() -> tuple[int, ...]:
    """Return the release of the installed Airflow, without a suffix such as ``rc1``."""
    from packaging.version import Version

    version: str = import_module("airflow").__version__
    return Version(version).release


def variable_is_missing(key: str) -> bool:
    """
    Ask Airflow's API itself whether a Variable that reads as None is missing; False when that is unknown.

    Airflow 3.1 and 3.2 report a Variable as missing when the API server could not be asked ("allow fallback" to other
    secrets backends, ``secrets/execution_api.py``).
    """
    try:
        from airflow.sdk.execution_time.comms import ErrorResponse, GetVariable
        from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS
    except ImportError:
        # Airflow 2.11 and processes of Airflow itself read the database, which raises.
        return True
    from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType

    try:
        response: Any = SUPERVISOR_COMMS.send(GetVariable(key=key))
    except AirflowRuntimeError as error:
        response = error.error
    return isinstance(response, ErrorResponse) and response.error == ErrorType.VARIABLE_NOT_FOUND


async def get_async_connection(conn_id: str, *, hook: BaseHook) -> Connection:
    """
    Read a Connection from an event loop.

    :param hook: the hook that reads it, so that overrides in a subclass apply.
    """
    if _reads_connections_on_the_loop(hook):
        return await hook.aget_connection(conn_id)
    from asgiref.sync import sync_to_async

    # Only asgiref's threads reach the supervisor of a trigger.
    return await sync_to_async(hook.get_connection)(conn_id)


async def mask_secrets_async(secrets: Iterable[str]) -> None:
    """Register secrets with Airflow's masker on an event loop, which ``mask_secret`` can stall on Airflow 3."""
    try:
        from airflow.sdk.log import amask_secret
    except ImportError:
        from asgiref.sync import sync_to_async

        mask = sync_to_async(_resolve("mask_secret", _MODULES["mask_secret"]))
    else:
        mask = amask_secret
    for secret in secrets:
        await mask(secret)


async def get_async_extra_dejson(connection: Connection) -> dict[str, Any]:
    """
    Decode the extra of a Connection on an event loop.

    The property ``extra_dejson`` masks its secrets by a blocking call, which stalls a triggerer of Airflow 3 or raises.
    """
    if hasattr(connection, "aextra_dejson"):
        return await connection.aextra_dejson()
    from asgiref.sync import sync_to_async

    return await sync_to_async(lambda: connection.extra_dejson)()


def _reads_connections_on_the_loop(hook: BaseHook) -> bool:
    """
    Return whether the hook's ``aget_connection`` can be awaited.

    Airflow 2.11 and 3.0 have none; that of 3.1.0 to 3.3.1 masks the secrets by a blocking call (apache/airflow#71891),
    and ``Connection.aextra_dejson`` came together with the one that does not. A hook's own method is trusted.
    """
    own = getattr(type(hook), "aget_connection", None)
    if own is None:
        return False
    inherited = getattr(_resolve("BaseHook", _MODULES["BaseHook"]), "aget_connection", None)
    if getattr(own, "__func__", own) is not getattr(inherited, "__func__", inherited):
        return True
    return hasattr(_resolve("Connection", _MODULES["Connection"]), "aextra_dejson")
