"""The manifest of a table task, and the report beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_segmind.bulk.report import can_report, need_report, write_report

if TYPE_CHECKING:
    from airflow_provider_segmind.bulk.manifest import Manifest
    from airflow_provider_segmind.bulk.storage import StorePath

_MANIFEST, _REPORT = ".manifest.json", ".report.html"


def check_report(wanted: bool | None) -> None:
    """
    Make sure, before anything is paid, that a report which is wanted can be drawn.

    :raises SegmindConfigError: it cannot; nothing was sent.
    """
    if wanted:
        need_report()


def add_report(manifest: Manifest, path: StorePath, *, wanted: bool | None, log: Any) -> None:
    """
    Draw the report of a run beside its manifest, and write the manifest again with the report's place in it.

    A report that cannot be drawn or written is only warned of: the answers are paid for, and what became of them stands
    in the manifest.

    :param path: where the manifest stands already.
    :param wanted: None to draw one where the library for it is installed.
    """
    if wanted is False or (wanted is None and not can_report()):
        return
    place = path.parent / (path.name.removesuffix(_MANIFEST) + _REPORT)
    manifest.report = str(place)
    try:
        write_report(manifest, place)
        manifest.write(path)
    except Exception as error:  # noqa: BLE001 - whatever a drawing library raises, the run has its outcome
        manifest.report = None
        log.warning("The report could not be written to %s: %s: %s", place, type(error).__name__, error)
