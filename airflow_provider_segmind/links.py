"""Links from a task in the UI to its model and to its result."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_segmind.compat import BaseOperatorLink
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
    """The result: the file where it is stored, or Segmind's output URL. Available when the task has ended."""

    name = "Segmind output"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return where the result is, empty when it is only in XCom."""
        if hasattr(operator, "result_uri"):
            return operator.result_uri or ""
        # Airflow 2.11 calls this in the webserver, which has only the serialized fields of the operator.
        from airflow_provider_segmind.compat import XCom

        return result_address(XCom.get_value(ti_key=ti_key, key="return_value")) or ""


def result_address(value: Any) -> str | None:
    """
    Return where a result is: the URI of a manifest, or the output URL of a body.

    :param value: what the task returned.
    """
    if not isinstance(value, dict):
        return None
    for address in (value.get("uri"), value.get("output")):
        if isinstance(address, str) and re.fullmatch(r"[a-z][a-z0-9+.\-]*://\S+|/\S+", address):
            return mask_known(address)
    return None
