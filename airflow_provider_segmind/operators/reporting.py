"""The manifest of a table task, and the report beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.bulk.report import write_report

if TYPE_CHECKING:
    from airflow_provider_segmind.bulk.manifest import Manifest
    from airflow_provider_segmind.bulk.storage import StorePath

_MANIFEST, _REPORT = ".manifest.json", ".report.html"


def add_report(manifest: Manifest, path: StorePath, *, wanted: bool, log: Any) -> None:
    """
    Draw the report of a run beside its manifest, and write the manifest again with the report's place in it.

    A report that cannot be drawn or written is only warned of: the answers are paid for, and what became of them stands
    in the manifest.

    :param path: where the manifest stands already.
    :param wanted: False to draw none.
    """
    if not wanted:
        return
    place = path.parent / (path.name.removesuffix(_MANIFEST) + _REPORT)
    manifest.report = str(place)
    try:
        write_report(manifest, place)
        manifest.write(path)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong here, the run has its outcome
        manifest.report = None
        log.warning("The report could not be written to %s: %s: %s", place, type(error).__name__, error)
