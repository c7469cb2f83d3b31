"""
Segments: the files a ledger is made of. Each is written once, whole, and never changed, because object stores cannot
append; its last line has the number of lines and a checksum of the bytes before it, so that a torn segment is detected.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence

from airflow_provider_segmind.enrichment.storage import StorePath, names_if_any, read_at_once, write_whole
from airflow_provider_segmind.exceptions import SegmindEnrichmentError

SUFFIX = ".jsonl"


def segment_name(at: float, writer: str, number: int) -> str:
    """Return a name that sorts by time in ``ls`` and that no other writer can take."""
    return f"{int(at * 1000):014d}-{writer}-{number:06d}{SUFFIX}"


def segment_names(folder: StorePath) -> list[str]:
    """List the segments of a ledger, oldest first; half-written files are left out."""
    try:
        return sorted(name for name in names_if_any(folder) if is_segment(name))
    except OSError as error:
        raise _unreadable(str(folder), error) from error


def is_segment(name: str) -> bool:
    """Return whether a file is a complete segment, by its name."""
    return name.endswith(SUFFIX) and name[0] != "."


def writer_and_number(name: str) -> tuple[str, int]:
    """
    Return the writer of a segment and its number among those of the writer.

    :raises SegmindEnrichmentError: :func:`segment_name` did not make the name.
    """
    rest, _, number = name.removesuffix(SUFFIX).rpartition("-")
    _, _, writer = rest.partition("-")
    if not writer or not number.isdecimal():
        raise _unreadable(name, "its name is not that of a segment")
    return writer, int(number)


def write_segment(folder: StorePath, name: str, lines: Sequence[bytes]) -> None:
    """Write a segment as a whole or not at all."""
    body = b"".join(line + b"\n" for line in lines)
    end = {"event": "end", "lines": len(lines), "crc32": f"{zlib.crc32(body):08x}"}
    with write_whole(folder / name) as file:
        file.write(body)
        file.write(json.dumps(end, separators=(",", ":")).encode() + b"\n")


def read_segment(folder: StorePath, name: str) -> list[bytes] | None:
    """
    Return the lines of a segment, or None when it is no longer there because it was compacted.

    :raises SegmindEnrichmentError: it is there and cannot be read, which is not the same as absent.
    """
    try:
        content = read_at_once(folder / name)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(name, error) from error
    # A segment has megabytes, so no more copies are made of it than needed.
    body = content[: content.rfind(b"\n", 0, -1) + 1]
    try:
        end = json.loads(content[len(body) :])
        whole = end["event"] == "end" and end["crc32"] == f"{zlib.crc32(body):08x}"
    except (ValueError, TypeError, KeyError) as error:
        raise _unreadable(name, error) from error
    lines = body.split(b"\n")[:-1]
    if not whole or len(lines) != end["lines"]:
        raise _unreadable(name, "its content does not match its checksum")
    return lines


def _unreadable(name: str, why: object) -> SegmindEnrichmentError:
    return SegmindEnrichmentError(
        f"The ledger segment {name!r} cannot be read: {why}. Nothing is sent until it is known what was already "
        "paid for; a retry reads it again. If the file is lost for good, delete it; its rows may then be paid "
        "for twice.",
        retryable=True,
    )
