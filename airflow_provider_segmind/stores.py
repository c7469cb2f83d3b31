"""Object stores and databases from Airflow's Connections, and which package a missing one needs."""

from __future__ import annotations

from typing import Any

from airflow_provider_segmind.enrichment.storage import StorePath, store_path
from airflow_provider_segmind.exceptions import SegmindConfigError

_AMAZON, _GOOGLE, _AZURE = (
    "apache-airflow-providers-amazon[s3fs]",
    "apache-airflow-providers-google",
    "apache-airflow-providers-microsoft-azure",
)
PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), _AMAZON),
    **dict.fromkeys(("gs", "gcs"), _GOOGLE),
    **dict.fromkeys(("abfs", "abfss", "adl"), _AZURE),
}
"""The package that makes Airflow understand a scheme (the provider info of each, ``filesystems``)."""


def locate(address: str) -> StorePath:
    """
    Return a path in the store of its URI; fetches what a remote store needs from Airflow.

    :raises ValueError: Airflow has no store of that kind here; the message names the package that has it.
    :raises ImportError: the same.
    """
    from airflow_provider_segmind.compat import untracked_path

    try:
        found = store_path(untracked_path(address) if "://" in address else address)
        # Other threads must not be the first to ask Airflow for the store's connection.
        getattr(found, "fs", None)
    except (ValueError, ImportError) as error:
        if package := missing_package(address, error):
            raise ImportError(f"install {package} where tasks and triggers run ({error})") from error
        raise
    return found


def missing_package(address: str, error: Exception) -> str | None:
    """Return the package whose absence caused an error of a store; None if the error has another cause."""
    absent = isinstance(error, ImportError) or "No filesystem registered" in str(error)
    return PACKAGES.get(address.partition("://")[0]) if absent else None


def database_hook(conn_id: str, field: str) -> Any:
    """Return the hook of a database; see :func:`database`."""
    return database(conn_id, field)[1]


def database(conn_id: str, field: str) -> tuple[Any, Any]:
    """
    Return the Connection of a database and its hook.

    :param field: the argument that an error names.
    :raises SegmindConfigError: it is not a database.
    """
    from airflow_provider_segmind.compat import AirflowException, BaseHook

    try:
        from airflow_provider_segmind.compat import DbApiHook
    except ImportError as error:
        raise SegmindConfigError(
            "Tables of a database need apache-airflow-providers-common-sql: install airflow-provider-segmind[sql]. "
            "Nothing was sent."
        ) from error
    connection: Any = BaseHook.get_connection(conn_id)
    try:
        hook = connection.get_hook(hook_params=connection.extra_dejson)
    except AirflowException as error:
        raise SegmindConfigError(
            f"{field!r} names {conn_id!r}, a connection of type {connection.conn_type!r}, which no installed provider "
            "supports. Install the provider of that database. Nothing was sent."
        ) from error
    if not isinstance(hook, DbApiHook):
        raise SegmindConfigError(
            f"{field!r} names {conn_id!r}, a connection of type {connection.conn_type!r}, which is not a database "
            f"({type(hook).__name__} is not a DbApiHook). Nothing was sent."
        )
    return connection, hook
