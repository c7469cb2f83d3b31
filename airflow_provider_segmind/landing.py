"""
Land a result: inline when it is small, on object storage when it is not.

XCom carries ids and manifests, never payloads. Whoever sees a request complete lands its body at once when an
``output_path`` is set, because Segmind drops results one hour after submission. File names follow from the request
id, so that landing twice writes the same files.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from airflow_provider_segmind.api import history
from airflow_provider_segmind.api.client import SegmindClient
from airflow_provider_segmind.api.media import MediaFile, download, media_files
from airflow_provider_segmind.api.models import RequestResult, RequestState, RequestStatus
from airflow_provider_segmind.api.policies import MAX_XCOM_BYTES
from airflow_provider_segmind.api.polling import failed_error
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindError, SegmindRequestExpiredError

if TYPE_CHECKING:
    from airflow_provider_segmind.compat import ObjectStoragePath


@dataclass(frozen=True, slots=True)
class Place:
    """
    Where results go.

    :param output_path: an ObjectStoragePath URI: a folder, or a file when its last part has an ending like ``.json``
        (a letter, then up to four letters or digits) and no slash follows. None keeps results in XCom, where only
        small ones fit.
    :param max_xcom_bytes: bytes of JSON up to which a result is the XCom value.
    """

    output_path: str | None = None
    max_xcom_bytes: int = MAX_XCOM_BYTES

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
    def names_file(self) -> bool:
        """Whether ``output_path`` is a file and not a folder."""
        # Neither a run id with microseconds nor a bucket with a dot in its name is a file.
        scheme, _, rest = str(self.output_path).rpartition("://")
        below = rest.partition("/")[2] if scheme else rest
        return re.search(r"[^/]\.[A-Za-z][A-Za-z0-9]{0,4}$", below) is not None


def land(result: RequestResult, *, model: str | None, place: Place) -> Any:
    """
    Put a completed result where it belongs and return what XCom carries.

    Blocks: an event loop calls it in a thread.

    :returns: the body itself when it is small and points to no file that was downloaded, else a manifest:
        ``request_id``, ``model``, ``status``, ``metrics``, ``uri``, ``uris`` and ``bytes``.
    :raises SegmindConfigError: it is too large for XCom and there is no ``output_path``; it stays at Segmind for the
        rest of the hour.
    """
    body = result.to_json()
    encoded = json.dumps(body, ensure_ascii=False).encode()
    small = len(encoded) <= place.max_xcom_bytes
    if not place.output_path:
        if small:
            return body
        raise SegmindConfigError(
            f"The result of request {result.request_id!r} is {len(encoded)} bytes, over max_xcom_bytes "
            f"({place.max_xcom_bytes}), and no output_path says where to land it. It was billed and stays at "
            "Segmind until an hour after its submission: set output_path (or raise max_xcom_bytes) and clear this "
            "task; fetching it is free."
        )
    media = media_files(result, model)
    if media:
        landed = [_land_file(file, result.request_id, place, number) for number, file in enumerate(media)]
        return _manifest(result, model, [uri for uri, _ in landed], sum(size for _, size in landed))
    path = place.file(result.request_id, ".json")
    path.write_bytes(encoded)
    return body if small else _manifest(result, model, [str(path)], len(encoded))


def landed_before(request_id: str, place: Place, manifest: dict[str, Any] | None = None) -> Any:
    """
    Return what XCom carries of a result that was landed earlier, None when it was not.

    :param manifest: as an earlier task or try gave it.
    """
    from airflow_provider_segmind.compat import ObjectStoragePath

    if manifest is not None and not str(manifest["uri"]).endswith(".json"):
        there = all(ObjectStoragePath(uri).exists() for uri in manifest.get("uris") or [manifest["uri"]])
        return manifest if there else None
    if manifest is None and not place.output_path:
        return None
    path = ObjectStoragePath(manifest["uri"]) if manifest else place.file(request_id, ".json")
    try:
        encoded = path.read_bytes()
        body = json.loads(encoded)
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(body, dict) or body.get("request_id") != request_id:
        return None
    if len(encoded) <= place.max_xcom_bytes:
        return body
    result = RequestResult.model_validate(body)
    return manifest or _manifest(result, None, [str(path)], len(encoded))


def recover(client: SegmindClient, error: SegmindRequestExpiredError, *, model: str | None, place: Place) -> Any:
    """
    Take what the request history still holds of a request whose result is gone: outcome, cost and output URL.

    Blocks. Free.

    :returns: what XCom carries, as :func:`land` returns it; the body says ``recovered``.
    :raises SegmindRequestFailedError: the history says it had failed; nothing was billed.
    :raises SegmindRequestExpiredError: the history holds no output; it names request, age and cost.
    """
    request_id = error.request_id
    try:
        record = client.drive(history.recover(client.wire, request_id))
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
        return land(result, model=model, place=place)
    billed = "an unknown amount" if cost is None else f"{cost} USD"
    raise SegmindRequestExpiredError(
        f"{error} Its record says {record.model_status or 'nothing of its state'}, {billed} billed, and names no "
        "output file, so the answer is lost. To ask again, start another DAG run, or let SegmindRunOperator pay for a "
        "new request with on_expired='resubmit'; output_path keeps this from happening.",
        request_id=request_id,
        age=error.age,
        cost=cost,
    ) from error


def _land_file(file: MediaFile, request_id: str, place: Place, number: int) -> tuple[str, int]:
    written: list[str] = []

    def open_sink(suffix: str) -> BinaryIO:
        path = place.file(request_id, suffix, number)
        written.append(str(path))
        return cast("BinaryIO", path.open("wb"))  # type: ignore[no-untyped-call]

    size = download(file, open_sink)
    return written[-1], size


def _manifest(result: RequestResult, model: str | None, uris: list[str], size: int) -> dict[str, Any]:
    return {
        "request_id": result.request_id,
        "model": model,
        "status": result.status,
        "metrics": result.metrics.to_json(),
        "uri": uris[0],
        "uris": uris,
        "bytes": size,
    }
