"""
Store a result: inline when it is small, on object storage when it is not.

XCom carries ids, small results and manifests, and a large result only where there is no storage for it. The process
that sees a request complete stores its body at once when an ``output_path`` is set, because Segmind drops results one
hour after submission. File names follow from the request id, so that storing a result twice writes the same files.
"""

from __future__ import annotations

import errno
import logging
import mimetypes
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from airflow_provider_segmind.chat.json_values import (
    MAX_DEPTH,
    StorableValue,
    body_for_xcom,
    for_xcom,
)
from airflow_provider_segmind.client import request_history as history
from airflow_provider_segmind.client.client import SegmindClient
from airflow_provider_segmind.client.downloads import Downloads, MediaFile, download, media_files
from airflow_provider_segmind.client.models import RequestResult, RequestState, RequestStatus
from airflow_provider_segmind.client.request_errors import failed_error
from airflow_provider_segmind.client.submission import ResultManifest
from airflow_provider_segmind.defaults import MAX_XCOM_BYTES
from airflow_provider_segmind.enrichment.storage import is_absent, is_refusal, store_path
from airflow_provider_segmind.exceptions import (
    SegmindConfigError,
    SegmindDownloadError,
    SegmindError,
    SegmindRequestExpiredError,
    shorten,
)
from airflow_provider_segmind.money import format_usd
from airflow_provider_segmind.stores import missing_package

if TYPE_CHECKING:
    from airflow_provider_segmind.compat import ObjectStoragePath


log = logging.getLogger(__name__)
_PUBLIC = Downloads()


@dataclass(frozen=True, slots=True)
class ResultDestination:
    """
    Where results go.

    :param output_path: an ObjectStoragePath URI: a folder, or a file when its last part has an ending like ``.json``
        (a letter, then up to four letters or digits) and no slash follows. None keeps results in XCom.
    :param max_xcom_bytes: bytes of JSON up to which a result is the XCom value; None for a process that reads the body
        itself and needs all of it, unchanged.
    :param overflow_path: an ObjectStoragePath URI of a folder for larger results where there is no ``output_path``.
        Without it they go to XCom regardless: they were paid for.
    :param overflow_setting: where that folder is configured, for errors.
    """

    output_path: str | None = None
    max_xcom_bytes: int | None = MAX_XCOM_BYTES
    overflow_path: str | None = None
    overflow_setting: str = "[segmind] output_path"

    def fits_xcom(self, size: int) -> bool:
        """Return whether a result of that many bytes is small enough for XCom."""
        return self.max_xcom_bytes is None or size <= self.max_xcom_bytes

    def for_files(self) -> ResultDestination | None:
        """Return where files go, None when there is nothing but XCom."""
        if self.output_path:
            return self
        if not self.overflow_path:
            return None
        return ResultDestination(f"{str(self.overflow_path).rstrip('/')}/", self.max_xcom_bytes)

    def files_of(self, what: str, size: int) -> ResultDestination | None:
        """Return where a result of that many bytes goes, None if XCom carries it; warn if it is too large for that."""
        small, files = self.fits_xcom(size), self.for_files()
        if files is None and not small:
            log.warning(
                "%s has %d bytes, over max_xcom_bytes (%s), and there is no output_path to store it in: it goes into "
                "XCom in full. Set output_path, of the task, of its connection or of [segmind], to keep it out of the "
                "metadata database.",
                *(what, size, self.max_xcom_bytes),
            )
        return None if small and not self.output_path else files

    def file(self, request_id: str, suffix: str, number: int = 0) -> ObjectStoragePath:
        """Return the path of a file of one request; the folder exists afterwards."""
        from airflow_provider_segmind.compat import ObjectStoragePath, with_root

        path = ObjectStoragePath(with_root(cast(str, self.output_path)))
        tail = f"-{number + 1}" if number else ""
        if self.names_file:
            ending = path.suffix if suffix != ".json" or path.suffix == ".json" else f"{path.suffix}.json"
            path, name = path.parent, f"{path.stem}{tail}{ending}"
        else:
            name = f"{request_id}{tail}{suffix}"
        path.mkdir(parents=True, exist_ok=True)
        return path / name

    @property
    def folder(self) -> str | None:
        """Return the folder that ``output_path`` is, or that its file is in."""
        if self.output_path is None or not self.names_file:
            return self.output_path
        return self.output_path.rpartition("/")[0] + "/" if "/" in self.output_path else "./"

    @property
    def wants_files(self) -> bool:
        """Whether ``output_path`` names an image, a video or an audio file, for any model."""
        kind = mimetypes.guess_type(str(self.output_path))[0] if self.output_path and self.names_file else None
        return kind is not None and kind.partition("/")[0] in ("image", "video", "audio")

    @property
    def names_file(self) -> bool:
        """Whether ``output_path`` is a file and not a folder."""
        # A run id with microseconds, or a bucket with a dot in its name, must not be taken for a file.
        scheme, _, rest = str(self.output_path).rpartition("://")
        below = rest.partition("/")[2] if scheme else rest
        return re.search(r"[^/]\.[A-Za-z][A-Za-z0-9]{0,4}$", below) is not None


@dataclass(frozen=True, slots=True)
class StoredResult:
    """
    A completed result: its body, or the manifest of the files it is stored in.

    :param body: as XCom carries it: a string of JSON where not every reader carries the body as data.
    :param recovered: the body was put together from the request history, which has an output file at most.
    :param uri: of a file that has the same as the body.
    """

    body: Any = None
    manifest: ResultManifest | None = None
    recovered: bool = False
    uri: str | None = None

    @property
    def for_xcom(self) -> Any:
        """What XCom carries."""
        return self.body if self.manifest is None else self.manifest.to_json()

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Cost and times, where Segmind reports them."""
        if self.manifest is not None:
            return self.manifest.metrics
        metrics = self.body.get("metrics") if isinstance(self.body, dict) else None
        return metrics if isinstance(metrics, dict) else {}


def check_destination(destination: ResultDestination) -> None:
    """
    Check that a result can be stored, before it is paid for.

    A small file is written into the folder and deleted. This is done once for each path in a process, which runs the
    requests of one task in Airflow 3, and tasks of one user on one machine in any version.

    :raises SegmindConfigError: it cannot; names the argument or setting. Retryable if the store has failed.
    """
    files = destination.for_files()
    if files is not None:
        setting = "output_path" if destination.output_path else destination.overflow_setting
        _check_path(setting, str(files.output_path), files.names_file)


@lru_cache(maxsize=256)
def _check_path(setting: str, address: str, names_file: bool) -> None:
    from airflow_provider_segmind.compat import untracked_path

    try:
        path = untracked_path(address)
        if names_file:
            _check_replaceable(path)
        else:
            path = path / "result.json"
        probe = path.parent / f".{path.name}.probe"
        probe.parent.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"may be deleted\n")
    except Exception as error:
        raise store_error(error, address, f"{setting!r}: {address!r} cannot be written") from error
    # Permission to write does not imply permission to delete.
    with suppress(Exception):
        probe.unlink()


def store_error(error: Exception, address: str, problem: str) -> SegmindConfigError:
    """
    Return the error of a path whose store cannot be used, before anything was sent.

    :param error: a store's library may raise anything.
    :param problem: what cannot be done, with the argument or setting.
    """
    package = missing_package(address, error)
    why = f"install {package} where tasks and triggers run" if package else _reason(error)
    found = SegmindConfigError(f"{problem}: {why}. Nothing was sent.")
    found.retryable = not (package or is_refusal(error) or isinstance(error, ValueError))
    return found


def _reason(error: Exception) -> str:
    said = str(error) if isinstance(error, ValueError) else getattr(error, "strerror", None)
    return shorten(said or type(error).__name__)


def _check_replaceable(path: ObjectStoragePath) -> None:
    """
    Check that a file that may exist can be written, which on a disk does not depend on its folder.

    :raises OSError: it cannot.
    """
    with suppress(PermissionError):
        # Listing needs a permission that writing does not.
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if path.protocol in ("file", "local", "") and path.exists():
        Path(path.path).open("ab").close()


def store_result(
    result: RequestResult, *, model: str | None, destination: ResultDestination, downloads: Downloads = _PUBLIC
) -> StoredResult:
    """
    Store a completed result in its destination.

    Blocks: an event loop calls it in a thread.

    :returns: the body when it is small and names no file that was downloaded, or when there is no other storage for
        it; else the manifest.
    """
    encoded = result.encoded()
    files = destination.files_of(f"The result of request {result.request_id}", len(encoded))
    if files is None:
        return _inline(result, destination)
    try:
        downloaded = _download_files(result, model, destination, downloads)
    except SegmindError:
        # Not under the name of a stored result, so that a retry downloads the files.
        path = files.file(result.request_id, ".json")
        path = path.parent / f"{path.name.removesuffix('.json')}.not-downloaded.json"
        message = "The files of request %s could not be downloaded; the response with their addresses %s"
        try:
            path.write_bytes(encoded)
        except OSError as error:
            # The error of the download says what to do; this one must not replace it.
            log.warning(message, result.request_id, f"could not be stored in {path} either: {error}")
        else:
            log.warning(message, result.request_id, f"is stored in {path}")
        raise
    if downloaded:
        return _in_files(result, model, [uri for uri, _ in downloaded], sum(size for _, size in downloaded))
    path = files.file(result.request_id, ".json")
    path.write_bytes(encoded)
    if destination.fits_xcom(len(encoded)):
        return _inline(result, destination)
    return _in_files(result, model, [str(path)], len(encoded))


def store_for_event(
    result: RequestResult, *, model: str | None, destination: ResultDestination, downloads: Downloads
) -> StoredResult | None:
    """
    Store a result in a trigger and return what its event carries.

    Blocks.

    :returns: None for a body that no event carries: the task fetches it by its id.
    """
    if destination.for_files() is None and not destination.fits_xcom(len(result.encoded())):
        return None
    stored = store_result(result, model=model, destination=destination, downloads=downloads)
    return stored if isinstance(stored.for_xcom, dict) else None


def stored_result(
    request_id: str, destination: ResultDestination, manifest: ResultManifest | None = None
) -> StoredResult | None:
    """
    Return a result that was stored earlier, None when it is not there.

    :param manifest: as an earlier task or try wrote it.
    :raises OSError: the store does not say whether it is there.
    """
    from airflow_provider_segmind.compat import ObjectStoragePath

    if manifest is not None and not manifest.has_body:
        gone = any(is_absent(store_path(ObjectStoragePath(uri))) for uri in manifest.uris)
        return None if gone else StoredResult(manifest=manifest)
    files = destination.for_files()
    if manifest is None and files is None:
        return None
    path = ObjectStoragePath(manifest.uris[0]) if manifest else cast(ResultDestination, files).file(request_id, ".json")
    try:
        encoded = path.read_bytes()
        result = RequestResult.decoded(encoded)
    except (FileNotFoundError, ValueError):
        return None
    if result.request_id != request_id:
        return None
    if destination.fits_xcom(len(encoded)):
        return _inline(result, destination)
    return StoredResult(manifest=manifest) if manifest else _in_files(result, None, [str(path)], len(encoded))


def recover_result(
    client: SegmindClient, error: SegmindRequestExpiredError, *, model: str | None, destination: ResultDestination
) -> StoredResult:
    """
    Recover what the request history still has of a request whose result is gone: outcome, cost and output URLs.

    Blocks. Free.

    :raises SegmindRequestFailedError: the history says that it had failed; nothing was billed.
    :raises SegmindRequestExpiredError: the history has no output; the error names request, age and cost. It is
        retryable if the history could not be read.
    """
    request_id = error.request_id
    try:
        record = client.drive(history.fetch_record(client.wire, request_id))
    except SegmindError as failure:
        lost = SegmindRequestExpiredError(
            f"{error} The request history does not have it either: {failure}", request_id=request_id, age=error.age
        )
        # The history keeps the file's address for days.
        lost.retryable = failure.retryable
        raise lost from error
    if record.failed:
        state = RequestState(request_id=request_id, status=RequestStatus.FAILED, error=record.error)
        raise failed_error(state, model) from error
    cost = record.cost
    if record.completed and record.generation_url:
        urls = list(record.generation_urls)
        result = RequestResult.model_validate(
            {
                "request_id": request_id,
                "status": RequestStatus.COMPLETED.value,
                "output": urls if len(urls) > 1 else record.generation_url,
                "metrics": {} if cost is None else {"cost": cost},
                "recovered": True,
            }
        )
        return store_result(result, model=model, destination=destination, downloads=Downloads.of(client.config))
    raise SegmindRequestExpiredError(
        f"{error} Its record has the status {record.model_status or 'unknown'}, {format_usd(cost)} billed, and no "
        "output file, so the result is lost. To run it again, start another DAG run, or let SegmindRunOperator pay "
        "for a new request with on_expired='resubmit'; output_path prevents this.",
        request_id=request_id,
        age=error.age,
        cost=cost,
    ) from error


def _download_files(
    result: RequestResult, model: str | None, destination: ResultDestination, downloads: Downloads
) -> list[tuple[str, int]]:
    """Download the files of a result and return the URI and size of each; a refused address stays in the body."""
    # A process that reads the body itself needs text; an address in it must not be fetched.
    if not destination.output_path or destination.max_xcom_bytes is None:
        return []
    done: list[tuple[str, int]] = []
    for file in media_files(result, model, wanted=destination.wants_files):
        try:
            done.append(_download_file(file, result.request_id, destination, len(done), downloads))
        except SegmindDownloadError as error:
            if not error.refused:
                raise
            log.warning("Request %s: %s It was not downloaded", result.request_id, error)
    return done


def _download_file(
    file: MediaFile, request_id: str, destination: ResultDestination, number: int, downloads: Downloads
) -> tuple[str, int]:
    written: list[ObjectStoragePath] = []

    def open_sink(suffix: str) -> BinaryIO:
        written.append(destination.file(request_id, suffix, number))
        return cast("BinaryIO", written[-1].open("wb"))  # type: ignore[no-untyped-call]

    try:
        size = download(file, open_sink, downloads=downloads)
    except Exception:
        for path in written:
            # A partial file must not be taken for the whole. An error from deleting it must not hide the first one.
            with suppress(Exception):
                path.unlink(missing_ok=True)
        raise
    return str(written[-1]), size


def _inline(result: RequestResult, destination: ResultDestination) -> StoredResult:
    body = result.to_json()
    recovered = bool(body.get("recovered"))
    if destination.max_xcom_bytes is None:
        return StoredResult(body, recovered=recovered)
    carried = body_for_xcom(body, result.raw_json)
    if carried.as_text:
        log.warning(
            "The result of request %s is nested more than %d levels deep, or contains numbers beyond 64 bits, names "
            "that differ in U+0000 only or names that Airflow uses itself (__classname__, __id__), which not every "
            "reader supports: XCom carries it whole, as a string of JSON",
            result.request_id,
            MAX_DEPTH,
        )
    warn_of_replacements(carried, f"The result of request {result.request_id}")
    return StoredResult(carried.value, recovered=recovered)


def _in_files(result: RequestResult, model: str | None, uris: list[str], size: int) -> StoredResult:
    return StoredResult(manifest=manifest_of(result, model, uris, size))


def warn_of_replacements(carried: StorableValue, what: str) -> None:
    """Log that characters were replaced, if any were."""
    if carried.replaced:
        log.warning(
            "%s contains U+0000 or a lone surrogate in %d strings, which databases refuse: XCom carries U+FFFD instead",
            what,
            carried.replaced,
        )


def manifest_of(result: RequestResult, model: str | None, uris: list[str], size: int) -> ResultManifest:
    """Return the manifest of a result that was stored as files."""
    return ResultManifest(
        request_id=result.request_id,
        model=model,
        status=result.status,
        metrics=for_xcom(result.metrics.to_json()).value,
        uris=tuple(uris),
        size=size,
    )
