"""
Land a result: inline when it is small, on object storage when it is not.

XCom carries ids, small answers and manifests; a large answer only where nothing else takes it. Whoever sees a request
complete lands its body at once when an ``output_path`` is set, because Segmind drops results one hour after submission.
File names follow from the request id, so that landing twice writes the same files.
"""

from __future__ import annotations

import json
import logging
import mimetypes
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from airflow_provider_segmind.chat.json_values import (
    MAX_DEPTH,
    Carried,
    body_for_xcom,
    clean_text,
    for_xcom,
    read_json,
    was_changed,
)
from airflow_provider_segmind.client import request_history as history
from airflow_provider_segmind.client.client import SegmindClient
from airflow_provider_segmind.client.downloads import Downloads, MediaFile, download, media_files
from airflow_provider_segmind.client.models import RequestResult, RequestState, RequestStatus
from airflow_provider_segmind.client.polling import failed_error
from airflow_provider_segmind.defaults import MAX_XCOM_BYTES
from airflow_provider_segmind.exceptions import SegmindDownloadError, SegmindError, SegmindRequestExpiredError

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
        itself, which takes it as it is and whole.
    :param overflow_path: an ObjectStoragePath URI of a folder for results that are larger, where there is no
        ``output_path``. Without it they go to XCom all the same: they were paid for.
    """

    output_path: str | None = None
    max_xcom_bytes: int | None = MAX_XCOM_BYTES
    overflow_path: str | None = None

    def fits_xcom(self, size: int) -> bool:
        """Whether a result of that many bytes is small enough for XCom."""
        return self.max_xcom_bytes is None or size <= self.max_xcom_bytes

    def for_files(self) -> ResultDestination | None:
        """Return where files go, None when there is nothing but XCom."""
        if self.output_path:
            return self
        if not self.overflow_path:
            return None
        return ResultDestination(f"{str(self.overflow_path).rstrip('/')}/", self.max_xcom_bytes)

    def file(self, request_id: str, suffix: str, number: int = 0) -> ObjectStoragePath:
        """Return the path of a file of one request; the folder exists afterwards."""
        from airflow_provider_segmind.compat import ObjectStoragePath

        path = ObjectStoragePath(cast(str, self.output_path))
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
        """Whether ``output_path`` names an image, a video or an audio file, whichever model makes it."""
        kind = mimetypes.guess_type(str(self.output_path))[0] if self.output_path and self.names_file else None
        return kind is not None and kind.partition("/")[0] in ("image", "video", "audio")

    @property
    def names_file(self) -> bool:
        """Whether ``output_path`` is a file and not a folder."""
        # Neither a run id with microseconds nor a bucket with a dot in its name is a file.
        scheme, _, rest = str(self.output_path).rpartition("://")
        below = rest.partition("/")[2] if scheme else rest
        return re.search(r"[^/]\.[A-Za-z][A-Za-z0-9]{0,4}$", below) is not None


def store_result(
    result: RequestResult, *, model: str | None, destination: ResultDestination, downloads: Downloads = _PUBLIC
) -> Any:
    """
    Put a completed result where it belongs and return what XCom carries.

    Blocks: an event loop calls it in a thread.

    :returns: the body itself when it is small and points to no file that was downloaded, or when there is no other
        place for it; a string of JSON instead where no reader carries the body as data. Else a manifest:
        ``request_id``, ``model``, ``status``, ``metrics``, ``uri``, ``uris`` and ``bytes``.
    """
    encoded = _encoded(result)
    small = destination.fits_xcom(len(encoded))
    files = destination.for_files()
    if files is None or (small and not destination.output_path):
        if not small:
            log.warning(
                "The result of request %s is %d bytes, over max_xcom_bytes (%s), and no output_path says where to "
                "store it: it goes into XCom in full. Set output_path, or [segmind] output_path for all tasks, to keep "
                "it out of the metadata database.",
                result.request_id,
                len(encoded),
                destination.max_xcom_bytes,
            )
        return _body(result, destination)
    landed = _store_files(result, model, destination, downloads)
    if landed:
        return manifest_of(result, model, [uri for uri, _ in landed], sum(size for _, size in landed))
    path = files.file(result.request_id, ".json")
    path.write_bytes(encoded)
    return _body(result, destination) if small else manifest_of(result, model, [str(path)], len(encoded))


def store_for_event(
    result: RequestResult, *, model: str | None, destination: ResultDestination, downloads: Downloads = _PUBLIC
) -> dict[str, Any] | None:
    """
    Land a result where a trigger sees it complete, and return what its event carries.

    Blocks.

    :returns: as :func:`store_result`, None for a body that goes through no event: the task fetches it by its id.
    """
    if destination.for_files() is None and not destination.fits_xcom(len(_encoded(result))):
        return None
    value = store_result(result, model=model, destination=destination, downloads=downloads)
    return value if isinstance(value, dict) else None


def stored_result(request_id: str, destination: ResultDestination, manifest: dict[str, Any] | None = None) -> Any:
    """
    Return what XCom carries of a result that was landed earlier, None when it was not.

    :param manifest: as an earlier task or try gave it.
    """
    from airflow_provider_segmind.compat import ObjectStoragePath

    if manifest is not None and not str(manifest["uri"]).endswith(".json"):
        there = all(ObjectStoragePath(uri).exists() for uri in manifest.get("uris") or [manifest["uri"]])
        return manifest if there else None
    files = destination.for_files()
    if manifest is None and files is None:
        return None
    path = ObjectStoragePath(manifest["uri"]) if manifest else cast(ResultDestination, files).file(request_id, ".json")
    try:
        encoded = path.read_bytes()
        body = read_json(encoded)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(body, dict) or body.get("request_id") != request_id:
        return None
    result = RequestResult.model_validate(body)
    if was_changed(encoded):
        result = result.written_as(encoded.decode())
    if destination.fits_xcom(len(encoded)):
        return _body(result, destination)
    return manifest or manifest_of(result, None, [str(path)], len(encoded))


def recover_result(
    client: SegmindClient, error: SegmindRequestExpiredError, *, model: str | None, destination: ResultDestination
) -> Any:
    """
    Take what the request history still holds of a request whose result is gone: outcome, cost and output URL.

    Blocks. Free.

    :returns: what XCom carries, as :func:`store_result` returns it; the body says ``recovered``.
    :raises SegmindRequestFailedError: the history says it had failed; nothing was billed.
    :raises SegmindRequestExpiredError: the history holds no output; it names request, age and cost.
    """
    request_id = error.request_id
    try:
        record = client.drive(history.fetch_record(client.wire, request_id))
    except SegmindError as trouble:
        raise SegmindRequestExpiredError(
            f"{error} The request history does not help either: {trouble}", request_id=request_id, age=error.age
        ) from error
    if record.model_status == RequestStatus.FAILED:
        state = RequestState(request_id=request_id, status=RequestStatus.FAILED, error=record.error)
        raise failed_error(state, model) from error
    cost = record.credits_deduction
    if record.model_status == RequestStatus.COMPLETED and record.generation_url:
        result = RequestResult.model_validate(
            {
                "request_id": request_id,
                "status": RequestStatus.COMPLETED.value,
                "output": record.generation_url,
                "metrics": {} if cost is None else {"cost": cost},
                "recovered": True,
            }
        )
        return store_result(result, model=model, destination=destination, downloads=Downloads.of(client.config))
    billed = "an unknown amount" if cost is None else f"{cost} USD"
    raise SegmindRequestExpiredError(
        f"{error} Its record says {record.model_status or 'nothing of its state'}, {billed} billed, and names no "
        "output file, so the answer is lost. To ask again, start another DAG run, or let SegmindRunOperator pay for a "
        "new request with on_expired='resubmit'; output_path keeps this from happening.",
        request_id=request_id,
        age=error.age,
        cost=cost,
    ) from error


def _store_files(
    result: RequestResult, model: str | None, destination: ResultDestination, downloads: Downloads
) -> list[tuple[str, int]]:
    """Download the files of a result and return where each is and its size; a refused address stays in the body."""
    # Whoever reads the body itself asked for a text, and an address in it is not to be fetched.
    if not destination.output_path or destination.max_xcom_bytes is None:
        return []
    landed: list[tuple[str, int]] = []
    for file in media_files(result, model, wanted=destination.wants_files):
        try:
            landed.append(_store_file(file, result.request_id, destination, len(landed), downloads))
        except SegmindDownloadError as error:
            if not error.refused:
                raise
            log.warning("Request %s: %s It was not downloaded", result.request_id, error)
    return landed


def _store_file(
    file: MediaFile, request_id: str, destination: ResultDestination, number: int, downloads: Downloads
) -> tuple[str, int]:
    written: list[ObjectStoragePath] = []

    def open_sink(suffix: str) -> BinaryIO:
        written.append(destination.file(request_id, suffix, number))
        return cast("BinaryIO", written[-1].open("wb"))  # type: ignore[no-untyped-call]

    try:
        size = download(file, open_sink, downloads=downloads)
    except SegmindDownloadError:
        for path in written:
            # A part of a file is none.
            path.unlink(missing_ok=True)
        raise
    return str(written[-1]), size


def _encoded(result: RequestResult) -> bytes:
    if result.written is not None:
        return clean_text(result.written).encode()
    return clean_text(json.dumps(result.to_json(), ensure_ascii=False)).encode()


def _body(result: RequestResult, destination: ResultDestination) -> Any:
    body = result.to_json()
    if destination.max_xcom_bytes is None:
        return body
    carried = body_for_xcom(body, result.written)
    if carried.as_text:
        log.warning(
            "The result of request %s is nested more than %d levels deep, or has numbers beyond 64 bits or names that "
            "differ in U+0000 only, which not every reader carries: XCom carries it whole, as a string of JSON",
            result.request_id,
            MAX_DEPTH,
        )
    warn_of_replacements(carried, f"The result of request {result.request_id}")
    return carried.value


def warn_of_replacements(carried: Carried, what: str) -> None:
    """
    Log that characters were replaced, if any were.

    :param what: what held them.
    """
    if carried.replaced:
        log.warning(
            "%s has U+0000 or half of a surrogate pair in %d strings, which databases refuse: XCom carries U+FFFD "
            "instead",
            what,
            carried.replaced,
        )


def manifest_of(result: RequestResult, model: str | None, uris: list[str], size: int) -> dict[str, Any]:
    """Return what XCom carries of a result that was stored as files."""
    return {
        "request_id": result.request_id,
        "model": model,
        "status": result.status,
        "metrics": for_xcom(result.metrics.to_json()).value,
        "uri": uris[0],
        "uris": uris,
        "bytes": size,
    }
