"""Links from a task in the UI to its model and to its result."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_segmind.compat import BaseOperatorLink, airflow_version
from airflow_provider_segmind.defaults import PAGE_AIRFLOW, PAGE_PREFIX
from airflow_provider_segmind.masking import mask_known

if TYPE_CHECKING:
    from airflow_provider_segmind.compat import BaseOperator, TaskInstanceKey


MODEL_PAGE = "https://www.segmind.com/models/{model}/api"
"""The public page of a model. Segmind documents no page for a single request."""


class SegmindModelLink(BaseOperatorLink):
    """The model's page at Segmind: parameters, prices, samples. Available from the submission on."""

    name = "Segmind model"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the page of the task's model, empty while the model is unknown."""
        model = getattr(operator, "model_used", None) or getattr(operator, "model", None)
        if not isinstance(model, str) or not re.fullmatch(r"[\w.\-/]+", model):
            # A template, or the connection's default model.
            return ""
        return MODEL_PAGE.format(model=quote(model))


class SegmindOutputLink(BaseOperatorLink):
    """
    The result: a table's run on the page in Airflow's UI, else an address that a browser opens.

    A file in object storage or on a disk has no link.
    """

    name = "Segmind output"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return where the result can be seen, empty when nothing shows it."""
        if getattr(operator, "has_page", False) and airflow_version() >= PAGE_AIRFLOW:
            # Relative to the base of the UI, which a worker need not know.
            path = table_path(ti_key.dag_id, ti_key.run_id, ti_key.task_id, ti_key.map_index)
            return f"{PAGE_PREFIX.lstrip('/')}/{path}"
        if hasattr(operator, "result_uri"):
            return result_address({"uri": operator.result_uri}) or ""
        # Airflow 2.11 calls this in the webserver, which has only the serialized fields of the operator.
        from airflow_provider_segmind.compat import XCom

        return result_address(XCom.get_value(ti_key=ti_key, key="return_value")) or ""


def task_address(ti: Any) -> str | None:
    """Return where Airflow's UI shows a task instance, None where the configuration does not name the UI's address."""
    from airflow_provider_segmind.compat import conf

    section = "api" if airflow_version() >= (3, 0) else "webserver"
    address = getattr(ti, "log_url", None) if conf.get(section, "base_url", fallback="") else None
    return address if isinstance(address, str) and address.startswith(("http://", "https://")) else None


def table_path(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    """Return where the page shows a run of a table, relative to the page."""
    return "/".join(["tables", *(quote(part, safe="") for part in (dag_id, run_id, task_id)), str(map_index)])


def result_address(value: Any) -> str | None:
    """
    Return the http(s) address of a result: where it is stored, or the output URL of a body.

    :param value: what the task returned.
    """
    if not isinstance(value, dict):
        return None
    for address in (value.get("uri"), value.get("output")):
        if isinstance(address, str) and re.fullmatch(r"https?://\S+", address):
            return mask_known(address)
    return None
