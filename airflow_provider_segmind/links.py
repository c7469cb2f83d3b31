"""Links from a task in the UI to the model it asks and to what came of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_segmind.compat import BaseOperatorLink
from airflow_provider_segmind.masking import mask_known

if TYPE_CHECKING:
    from airflow_provider_segmind.compat import BaseOperator, TaskInstanceKey


MODEL_PAGE = "https://www.segmind.com/models/{model}/api"
"""The public page of a model. Segmind documents no address for a single request."""


class SegmindModelLink(BaseOperatorLink):
    """The model's page at Segmind: parameters, prices, samples. There from the submission on, while deferred too."""

    name = "Segmind model"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the page of the model that was asked, empty while nobody knows which."""
        model = getattr(operator, "model_used", None) or getattr(operator, "model", None)
        if not isinstance(model, str) or not re.fullmatch(r"[\w.\-/]+", model):
            # A template, or a model that only the connection names.
            return ""
        return MODEL_PAGE.format(model=quote(model))


class SegmindOutputLink(BaseOperatorLink):
    """The result: the file it was landed in, or the output URL that Segmind gave. There when the task has ended."""

    name = "Segmind output"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return where the result is, empty when it is nowhere but in XCom."""
        if hasattr(operator, "result_uri"):
            return operator.result_uri or ""
        # Airflow 2.11 asks in the webserver, which holds no operator but its serialized fields.
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
