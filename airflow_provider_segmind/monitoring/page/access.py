"""What the user of a request may read and change, as the deployment's auth manager decides."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, HTTPException, Request

from airflow_provider_segmind.compat import (
    ConnectionDetails,
    DagAccessEntity,
    DagDetails,
    DagModel,
    VariableDetails,
    conf,
    get_auth_manager,
    get_user,
    requires_access_dag,
)

_NO_DAG = "segmind: no DAG"
"""No DAG can have this id, so it can be read only by those who may read any DAG."""
may_open_page = requires_access_dag("GET", DagAccessEntity.TASK_INSTANCE)
"""Every route depends on it. One with a ``dag_id`` needs the right to read the task instances of that DAG."""


@dataclass(frozen=True, slots=True)
class Viewer:
    """The user of a request."""

    request: Request
    user: Any

    def dag_ids(self) -> set[str]:
        """Return the DAGs whose figures may be shown. Core's own lists use the same call."""
        found: set[str] = get_auth_manager().get_authorized_dag_ids(user=self.user, method="GET")
        return found

    def may_read_all(self, session: Any, readable: Collection[str]) -> bool:
        """
        Return whether the figures of any DAG may be shown, and so those of deleted DAGs and of no DAG.

        To a question about no DAG in particular, an auth manager answers yes for a user who may read at least one.

        :param readable: what :meth:`dag_ids` returned; some auth managers ask a server about each DAG.
        """
        details = DagDetails(id=_NO_DAG)
        if not get_auth_manager().is_authorized_dag(method="GET", details=details, user=self.user):
            return False
        return all(dag_id in readable for (dag_id,) in session.query(DagModel.dag_id))

    def may_read_answers(self, dag_id: str) -> bool:
        """Return whether answers of models and reasons of failed rows may be shown: they are, or were, in XComs."""
        try:
            requires_access_dag("GET", DagAccessEntity.XCOM, dag_id)(self.request, self.user)
        except HTTPException as refusal:
            if refusal.status_code == HTTPStatus.FORBIDDEN:
                return False
            raise
        return True

    def may_change_variable(self, key: str) -> bool:
        """Return whether a Variable of the deployment may be written."""
        details = VariableDetails(key=key)
        return bool(get_auth_manager().is_authorized_variable(method="PUT", details=details, user=self.user))

    def may_read_connection(self, conn_id: str) -> bool:
        """Return whether the account behind a Connection may be asked for its balance."""
        details = ConnectionDetails(conn_id=conn_id)
        return bool(get_auth_manager().is_authorized_connection(method="GET", details=details, user=self.user))


def viewer_of(request: Request, user: Annotated[Any, Depends(get_user)]) -> Viewer:
    """Return the user of a request, as a dependency of routes."""
    return Viewer(request, user)


def comes_from_the_page(request: Request) -> None:
    """
    Refuse a write that another site may have sent with the user's cookie.

    Browsers name the origin of every POST, and say on https and localhost whether it is the page's own. Behind a proxy
    the host of the request may differ from what the browser sees, which is ``[api] base_url``.
    """
    sent_from = request.headers.get("sec-fetch-site")
    if sent_from == "same-origin":
        return
    origin = request.headers.get("origin", "")
    own = {_origin(str(request.base_url)), _origin(conf.get("api", "base_url", fallback="") or "")} - {""}
    if sent_from is not None or origin not in own:
        raise HTTPException(HTTPStatus.FORBIDDEN, "The form was not sent from this page.")


def _origin(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.netloc}" if parts.netloc else ""
