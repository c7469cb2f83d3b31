"""
The names of Airflow 2.11 and 3.x in one module.

No other module of this package imports ``airflow``, and the core packages do not import this one; contracts in
``pyproject.toml`` enforce both. A name is resolved on first use, so that importing this module costs a DAG parse
nothing and each module pays only for the names it uses.

Airflow has the provider ``common-compat`` for this. It is not used because every release of Airflow pins it in its
constraints, and no released pin is new enough.

To add a name, add its modules to :data:`_MODULES`, newest Airflow first, and its import for type checkers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.models.resource_details import (
        ConnectionDetails,
        DagAccessEntity,
        DagDetails,
        VariableDetails,
    )
    from airflow.api_fastapi.core_api.security import get_user, requires_access_dag
    from airflow.cli.cli_config import ActionCommand, Arg, GroupCommand
    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.connection import Connection as CoreConnection
    from airflow.models.dag import DagModel
    from airflow.models.dagrun import DagRun
    from airflow.models.task_state_store import TaskStateStoreModel
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.trigger import Trigger
    from airflow.models.variable import Variable as CoreVariable
    from airflow.models.xcom import XComModel
    from airflow.plugins_manager import AirflowPlugin
    from airflow.providers.common.ai.hooks.pydantic_ai import PydanticAIHook
    from airflow.providers.common.sql.hooks.sql import DbApiHook
    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.providers.openlineage.sqlparser import SQLParser
    from airflow.sdk import (
        DAG,
        BaseHook,
        BaseOperator,
        BaseOperatorLink,
        BaseSensorOperator,
        Connection,
        Context,
        ObjectStoragePath,
        PokeReturnValue,
        TaskGroup,
        Variable,
        XComArg,
        get_current_context,
        task,
    )
    from airflow.sdk.bases.decorator import DecoratedOperator, determine_kwargs, task_decorator_factory
    from airflow.sdk.configuration import conf
    from airflow.sdk.definitions._internal.types import SET_DURING_EXECUTION
    from airflow.sdk.definitions.context import KNOWN_CONTEXT_KEYS, context_merge
    from airflow.sdk.definitions.decorators import TaskDecoratorCollection
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
    from airflow.utils.session import create_session

_EXCEPTIONS: Final = ("airflow.sdk.exceptions", "airflow.exceptions")
_RESOURCES: Final = ("airflow.api_fastapi.auth.managers.models.resource_details",)
_CLI: Final = ("airflow.cli.cli_config",)
_MODULES: Final[dict[str, tuple[str, ...]]] = {
    "ActionCommand": _CLI,
    "AirflowException": _EXCEPTIONS,
    "AirflowFailException": _EXCEPTIONS,
    "AirflowPlugin": ("airflow.plugins_manager",),
    "AirflowSensorTimeout": _EXCEPTIONS,
    "AirflowSkipException": _EXCEPTIONS,
    "Arg": _CLI,
    "BaseHook": ("airflow.sdk", "airflow.hooks.base"),
    "BaseOperator": ("airflow.sdk", "airflow.models.baseoperator"),
    "BaseOperatorLink": ("airflow.sdk", "airflow.models.baseoperatorlink"),
    "BaseSensorOperator": ("airflow.sdk", "airflow.sensors.base"),
    "BaseTrigger": ("airflow.triggers.base",),
    "Connection": ("airflow.sdk", "airflow.models.connection"),
    # Airflow 3 only, like the other names of its API server.
    "ConnectionDetails": _RESOURCES,
    "Context": ("airflow.sdk", "airflow.utils.context"),
    "KNOWN_CONTEXT_KEYS": ("airflow.sdk.definitions.context", "airflow.utils.context"),
    "DAG": ("airflow.sdk", "airflow.models.dag"),
    "DagBag": ("airflow.dag_processing.dagbag", "airflow.models.dagbag"),
    "DagAccessEntity": _RESOURCES,
    "DagDetails": _RESOURCES,
    # Core's own models, for processes that reach the metadata database.
    "CoreConnection": ("airflow.models.connection:Connection",),
    "CoreVariable": ("airflow.models.variable:Variable",),
    "DagModel": ("airflow.models.dag",),
    "DagRun": ("airflow.models.dagrun",),
    "DbApiHook": ("airflow.providers.common.sql.hooks.sql",),
    "DecoratedOperator": ("airflow.sdk.bases.decorator", "airflow.decorators.base"),
    "GroupCommand": _CLI,
    # From Airflow 3.3 on; an ImportError before.
    "NEVER_EXPIRE": ("airflow.sdk",),
    "ObjectStoragePath": ("airflow.sdk", "airflow.io.path"),
    "OperatorLineage": ("airflow.providers.openlineage.extractors",),
    "PokeReturnValue": ("airflow.sdk", "airflow.sensors.base"),
    "PydanticAIHook": ("airflow.providers.common.ai.hooks.pydantic_ai",),
    "SQLParser": ("airflow.providers.openlineage.sqlparser",),
    "TaskDecoratorCollection": ("airflow.sdk.definitions.decorators", "airflow.decorators"),
    "TaskDeferred": _EXCEPTIONS,
    "TaskGroup": ("airflow.sdk", "airflow.utils.task_group"),
    "TaskInstance": ("airflow.models.taskinstance",),
    "TaskInstanceKey": ("airflow.sdk.types", "airflow.models.taskinstancekey"),
    # From Airflow 3.3 on; an ImportError before.
    "TaskStateStoreModel": ("airflow.models.task_state_store",),
    "Trigger": ("airflow.models.trigger",),
    "TriggerEvent": ("airflow.triggers.base",),
    "Variable": ("airflow.sdk", "airflow.models.variable"),
    "VariableDetails": _RESOURCES,
    "XCom": ("airflow.sdk.execution_time.xcom", "airflow.models.xcom"),
    "XComArg": ("airflow.sdk", "airflow.models.xcom_arg"),
    "XComModel": ("airflow.models.xcom", "airflow.models.xcom:BaseXCom"),
    "conf": ("airflow.sdk.configuration", "airflow.configuration"),
    "context_merge": ("airflow.sdk.definitions.context", "airflow.utils.context"),
    "create_session": ("airflow.utils.session",),
    "determine_kwargs": ("airflow.sdk.bases.decorator", "airflow.utils.operator_helpers"),
    "get_current_context": ("airflow.sdk", "airflow.operators.python"),
    "get_auth_manager": ("airflow.api_fastapi.app",),
    "get_user": ("airflow.api_fastapi.core_api.security",),
    "mask_secret": (
        "airflow.sdk.log",
        "airflow.sdk.execution_time.secrets_masker",
        "airflow.utils.log.secrets_masker",
    ),
    "requires_access_dag": ("airflow.api_fastapi.core_api.security",),
    "task": ("airflow.sdk", "airflow.decorators"),
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

    :param modules: each may be followed by a colon and the name that it has in that module.
    :raises ImportError: no module has it. A module that exists but cannot be imported raises its own error: continuing
        with the next one would mix the classes of two Airflow versions.
    """
    for entry in modules:
        path, _, other_name = entry.partition(":")
        try:
            module = import_module(path)
        except ModuleNotFoundError as error:
            if not f"{path}.".startswith(f"{error.name}."):
                raise
        else:
            if hasattr(module, other_name or name):
                return getattr(module, other_name or name)
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


def read_as_server() -> None:
    """
    Let this process find Connections and Variables of the metadata database, as ``airflow connections get`` does.

    From Airflow 3.1 on the task SDK searches the database only in a process of this kind; it reads the variable at each
    look-up. Airflow 3.0 has no such setting.
    """
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")


def use_database() -> None:
    """Let this process use the metadata database that the settings name now; others are closed. For tests of DAGs."""
    settings: Any = import_module("airflow.settings")
    settings.configure_vars()
    settings.reconfigure_orm()


def register_dag(dag: DAG, *, bundle: str) -> None:
    """
    Write a DAG to the metadata database, where ``dag.test()`` of Airflow 3.1 and later wants it.

    :param bundle: the configured bundle to which it then belongs.
    """
    if airflow_version() < (3, 1):
        return
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    bag: Any = _resolve("DagBag", _MODULES["DagBag"])(collect_dags=False)
    bag.dags[dag.dag_id] = dag
    manager: Any = DagBundlesManager
    manager().sync_bundles_to_db()
    _resolve("sync_bag_to_db", _MODULES["DagBag"])(bag, bundle, None)


@contextmanager
def one_api_server() -> Iterator[None]:
    """Let ``dag.test()`` build Airflow's API server once, as that of 3.3 does; 3.0 to 3.2 build one for every task."""
    try:
        from airflow.sdk.execution_time import supervisor
    except ImportError:
        # Airflow 2.11 has none.
        yield
        return
    module: Any = supervisor
    build = module.in_process_api_server
    module.in_process_api_server = partial(_api_server, build)
    try:
        yield
    finally:
        module.in_process_api_server = build


@cache
def _api_server(build: Any) -> Any:
    return build()


@cache
def stats() -> Any:
    """
    Return Airflow's metrics (``incr``, ``gauge``, ``timing``) as ``[metrics]`` configures them.

    From Airflow 3.2 on, the task SDK's are set up by the process of a task only; in a triggerer they would do nothing.
    """
    found = _resolve("Stats", ("airflow.sdk.observability.stats", "airflow.stats"))
    initialize = getattr(found, "initialize", None)
    if initialize is not None:
        make: Any = _resolve("get_stats_factory", ("airflow.sdk.observability.metrics.stats_utils",))
        if airflow_version() < (3, 3):
            initialize(factory=make(found))
        else:
            legacy = _resolve("conf", _MODULES["conf"]).getboolean("metrics", "legacy_names_on", fallback=True)
            initialize(factory=make(), export_legacy_names=legacy)
    return found


def untracked_path(address: str) -> ObjectStoragePath:
    """
    Return a path that Airflow's lineage collector does not track, nor any path derived from it.

    The collector takes 100 assets of a task at most, and a ledger would fill it with files that are not datasets.
    """
    made: ObjectStoragePath = _untracked_class()(with_root(address))
    return made


def with_root(address: str) -> str:
    """Return a relative local path as an absolute one, which Airflow 2.11 would take from the root of the disk."""
    return address if "://" in address else str(Path(address).absolute())


@cache
def _untracked_class() -> Any:
    tracked: Any = _resolve("ObjectStoragePath", _MODULES["ObjectStoragePath"])

    class UntrackedPath(tracked):  # type: ignore[misc]
        __slots__ = ()

        def open(self, *args: Any, **kwargs: Any) -> Any:
            opened = super().open(*args, **kwargs)
            # The file itself, without the wrapper that reports each call.
            return getattr(opened, "_obj", opened)

    return UntrackedPath


def variable_is_missing(key: str) -> bool:
    """
    Ask Airflow's API itself whether a Variable that reads as None is missing; False when that is unknown.

    From Airflow 3.1 on, 3.3.2 included, a Variable is reported as missing when the API server could not be asked
    ("transient error — allow fallback" to other secrets backends, ``secrets/execution_api.py``).
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
