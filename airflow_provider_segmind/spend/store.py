"""Where the spend record is kept: what every store does, and the one that the configuration names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from airflow_provider_segmind.exceptions import SegmindConfigError, shorten
from airflow_provider_segmind.spend.entries import SpendEntry


class SpendStore(Protocol):
    """
    A spend record, in which each request counts once however often it is written.

    All of its methods block, and raise the errors of the store.
    """

    name: str
    """Where the record is, for messages."""

    def write(self, entries: Sequence[SpendEntry]) -> None:
        """Add entries; durable on return."""

    def read(self, *, since: float | None = None, until: float | None = None) -> Iterator[SpendEntry]:
        """
        Yield the entry of each request that finished in a period, in no particular order.

        :param since: epoch seconds, included; None for the beginning.
        :param until: epoch seconds, excluded; None for the end.
        """

    def tidy(self, *, since: float, now: float) -> None:
        """
        Keep the record quick to read; may be called at any time.

        :param since: epoch seconds from which days are looked at.
        :param now: epoch seconds.
        """

    def known(self, request_ids: Iterable[str]) -> set[str]:
        """Return which of the given requests are in the record."""


def configured_store() -> SpendStore | None:
    """
    Return the store that ``[segmind] spend_path`` or ``spend_conn_id`` names, None without either.

    Looks up the Airflow Connection it needs, so that other threads need not.

    :raises SegmindConfigError: both are set, or Airflow cannot reach a store of that kind here.
    """
    from airflow_provider_segmind.compat import conf

    path, conn_id = (conf.get("segmind", name, fallback="") for name in ("spend_path", "spend_conn_id"))
    if path and conn_id:
        raise SegmindConfigError(
            "[segmind] spend_path and spend_conn_id are both set, but there can be only one spend record: remove "
            "one of them."
        )
    if path:
        from airflow_provider_segmind.spend.files import FileStore
        from airflow_provider_segmind.stores import locate

        try:
            return FileStore(locate(path))
        except (ValueError, ImportError) as error:
            raise SegmindConfigError(
                f"[segmind] spend_path is in a storage system that this Airflow does not support: "
                f"{shorten(str(error))}."
            ) from error
    if conn_id:
        from airflow_provider_segmind.spend.sql_table import SqlStore
        from airflow_provider_segmind.stores import database_hook

        return SqlStore(database_hook(conn_id, "[segmind] spend_conn_id"), conn_id)
    return None
