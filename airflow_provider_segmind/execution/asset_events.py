"""The figures of a run in the events of its task's assets. Short because Airflow does the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.enrichment.outcomes import Outcome

if TYPE_CHECKING:
    from airflow_provider_segmind.compat import Context
    from airflow_provider_segmind.enrichment.storage import StorePath


def describe_outlets(context: Context, outlets: Any, figures: Mapping[str, Any]) -> None:
    """
    Add figures to the one event that Airflow makes for each outlet when the task succeeds.

    :param outlets: of the operator. An alias is skipped: it has no asset yet, and so no event.
    """
    events: Any = context.get("outlet_events")
    if events is None:
        return
    for outlet in outlets or ():
        if hasattr(outlet, "uri"):
            events[outlet].extra = {**events[outlet].extra, **figures}


def table_figures(manifest: Mapping[str, Any], path: StorePath | None) -> dict[str, Any]:
    """
    Return the figures of a table.

    :param manifest: as the task returns it.
    :param path: of the manifest, None when it is not written.
    """
    return {
        "rows": manifest["rows_read"],
        "answered": manifest["outcomes"][Outcome.SUCCESS],
        "cost_usd": manifest["cost"],
        "model": manifest["model"],
        "prompt_hash": manifest["prompt_hash"],
        "manifest": path.absolute().as_uri() if isinstance(path, Path) else path and str(path),
    }
