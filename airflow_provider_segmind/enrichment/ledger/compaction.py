"""Many small segments of a ledger become few large ones, without what later events made void."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.ledger.segments import segment_name, segment_names, write_segment
from airflow_provider_segmind.enrichment.storage import StorePath, delete, for_each

SEGMENT_BYTES = 4 << 20
"""How large a compacted segment gets: a reader has one in memory."""


def compact(
    folder: StorePath,
    *,
    clock: Callable[[], float],
    names: Sequence[str] | None = None,
    segment_bytes: int = SEGMENT_BYTES,
    source: StorePath | None = None,
) -> list[str]:
    """
    Rewrite segments as few large ones, without what later events made void, and return the new names.

    The new segments are written first and the old ones deleted after; a crash in between leaves both, which reads the
    same, because it does not matter how often or in which order the ledger's events are read. A reader that misses an
    old segment lists the folder again. So several writers may compact one folder while others write.

    :param names: the segments to rewrite, all that are there when None.
    :param clock: epoch seconds.
    :param segment_bytes: how large a new segment gets.
    :param source: the folder that the segments are in, when they are to leave it for ``folder``.
    :raises SegmindEnrichmentError: one cannot be read; nothing is deleted.
    """
    old = list(segment_names(folder) if names is None else names)
    if len(old) < 2 and (source is None or not old):
        return old
    # A name used twice would overwrite what it is about to delete.
    writer = f"compact-{uuid.uuid4().hex[:12]}"
    ledger = Ledger(folder, run="", writer=writer, clock=clock)
    new: list[str] = []
    try:
        ledger.replay(old, source=source)
        lines: list[bytes] = []
        size = 0
        for line in ledger.dump():
            lines.append(line)
            size += len(line) + 1
            if size >= segment_bytes:
                new.append(_write(folder, clock(), writer, len(new), lines))
                lines, size = [], 0
        if lines:
            new.append(_write(folder, clock(), writer, len(new), lines))
    finally:
        ledger.close()
    for _ in for_each([(source or folder) / name for name in old], delete):
        pass
    return new


def _write(folder: StorePath, at: float, writer: str, number: int, lines: Sequence[bytes]) -> str:
    name = segment_name(at, writer, number)
    write_segment(folder, name, lines)
    return name
