"""
Whether files can be written, found out before anything is paid: they are written last, when everything has been.

The folder is made and a file of no bytes is written into it and deleted. Paths are compared, so that an output does not
replace what the run reads, and is not read as rows by the next one.
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import os
import re
from collections.abc import Sequence
from pathlib import Path

from airflow_provider_segmind.enrichment.files.readers import Format, is_pattern, is_table, known_kind, pyarrow
from airflow_provider_segmind.enrichment.storage import StorePath, make_folder, write_whole
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindEnrichmentError, shorten

_REFUSALS = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
        *(errno.ENAMETOOLONG, errno.EINVAL, errno.ENOENT),
    }
)
_USERINFO = re.compile(r"://[^/@]*@/?")


def check_writable(argument: str, paths: Sequence[StorePath], *, dry: bool) -> None:
    """
    Find out whether files of one folder can be written; files that are there already are left alone.

    :param argument: what the user calls where they are.
    :param dry: write nothing, and so find only what is in the way.
    :raises SegmindConfigError: they cannot. Nothing was sent.
    :raises SegmindEnrichmentError: the store failed; a retry may help. Nothing was sent.
    """
    longest = max(paths, key=lambda path: len(path.name))
    try:
        for path in paths:
            if _is_folder(path):
                raise SegmindConfigError(f"{argument!r} names {str(path)!r}, which is a folder. Nothing was sent.")
        if not dry:
            make_folder(longest.parent)
            probe = longest.parent / f".{longest.name}.rehearsal"
            with write_whole(probe):
                pass
            # Who may write need not be allowed to delete.
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)
    except SegmindConfigError:
        raise
    except Exception as error:
        # The library of a store may raise anything.
        why = shorten(getattr(error, "strerror", None) or type(error).__name__)
        message = f"{argument!r}: {str(longest)!r} cannot be written: {why}. Nothing was sent."
        if isinstance(error, PermissionError) or getattr(error, "errno", None) in _REFUSALS:
            raise SegmindConfigError(message) from error
        raise SegmindEnrichmentError(message, retryable=True) from error


def _is_folder(path: StorePath) -> bool:
    """Tell whether a path is a folder, as far as one may look; who may write need not be allowed to list."""
    try:
        return path.is_dir()
    except OSError:
        return False


def check_format(path: StorePath) -> None:
    """
    Make sure that a table can be written in the format its name says.

    :raises SegmindConfigError: its name says none, or what the format needs is not installed.
    """
    if known_kind(path.name).format is Format.PARQUET:
        pyarrow()


def check_apart(outputs: Sequence[StorePath], ledger: StorePath, sources: Sequence[StorePath]) -> None:
    """
    Make sure that outputs, ledger and sources are different files.

    :param outputs: the tables that are written: the output, the dead letters.
    :raises SegmindConfigError: they are not; names the argument. Nothing was sent.
    """
    if ledger.exists() and not ledger.is_dir():
        raise SegmindConfigError(f"'ledger_path' {str(ledger)!r} is a file; it must be a folder. Nothing was sent.")
    for output in outputs:
        if _is_inside(output, ledger):
            raise SegmindConfigError(
                f"'output_path' puts {str(output)!r} into the ledger's folder {str(ledger)!r}: give one of them a "
                "folder of its own. Nothing was sent."
            )
        for source in sources:
            if _reads(source, output):
                raise SegmindConfigError(
                    f"'output_path' makes {str(output)!r}, which 'source' {str(source)!r} reads: its rows would be "
                    "lost, or the next run would ask about answers. Nothing was sent."
                )
    for source in sources:
        folder = source.parent if is_pattern(source) else source
        if _form(folder) == _form(ledger):
            raise SegmindConfigError(
                f"'ledger_path' {str(ledger)!r} is the folder that 'source' reads. Nothing was sent."
            )


def _reads(source: StorePath, file: StorePath) -> bool:
    """Tell whether a source stands for a file, now or once the file is there."""
    if is_pattern(source):
        return _form(source.parent) == _form(file.parent) and fnmatch.fnmatchcase(file.name, source.name)
    if _form(source) == _form(file):
        return True
    return _form(source) == _form(file.parent) and is_table(file) and source.is_dir()


def _is_inside(path: StorePath, folder: StorePath) -> bool:
    return f"{_form(path)}/".startswith(f"{_form(folder)}/")


def _form(path: StorePath) -> str:
    """Return one spelling for one place: without links and dots on the local disk, without a Connection elsewhere."""
    text = os.path.realpath(path) if isinstance(path, Path) and "://" not in str(path) else str(path)
    return _USERINFO.sub("://", text).rstrip("/")
