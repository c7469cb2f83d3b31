"""Where a result goes: XCom, a folder, a file; the same files every time."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from upath import UPath

from airflow_provider_segmind.chat.json_values import json_text
from airflow_provider_segmind.client.config import ClientConfig, DownloadLimits
from airflow_provider_segmind.client.downloads import Downloads
from airflow_provider_segmind.client.models import RequestRecord, RequestResult
from airflow_provider_segmind.client.responses import Response, state
from airflow_provider_segmind.client.submission import ResultManifest
from airflow_provider_segmind.compat import ObjectStoragePath
from airflow_provider_segmind.exceptions import (
    SegmindBadRequestError,
    SegmindConnectionError,
    SegmindDownloadError,
    SegmindError,
    SegmindRequestExpiredError,
    SegmindRequestFailedError,
    SegmindResponseError,
    SegmindServerError,
)
from airflow_provider_segmind.result_storage import (
    ResultDestination,
    StoredResult,
    recover_result,
    store_for_event,
    store_result,
    stored_result,
)
from demo.databases import POSTGRES
from tests.client.test_public_network import Site, victim

# Importing Airflow configures its logging, which must not happen in the middle of a test that captures it.
__all__ = ["ObjectStoragePath", "victim"]


def result(size: int = 10) -> RequestResult:
    return RequestResult.model_validate({"request_id": "r-1", "status": "COMPLETED", "output": "é" * size})


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("memory://out/all", "out/all/r-1.json"),
        ("memory://out/all/", "out/all/r-1.json"),
        ("memory://my.bucket", "my.bucket/r-1.json"),
        ("memory://out/manual__2024-01-01T00:00:00.123456+00:00", "00.123456+00:00/r-1.json"),
        ("memory://out/v1.2", "out/v1.2/r-1.json"),
        ("memory://out/answer.json", "out/answer.json"),
        ("memory://out/folder.json/", "folder.json/r-1.json"),
        ("memory://out/answer.txt", "out/answer.txt.json"),
    ],
)
def test_a_path_is_a_folder_unless_its_last_part_has_an_ending(path: str, names: str) -> None:
    assert str(ResultDestination(path, 0).file("r-1", ".json")).endswith(names)


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_storing_twice_writes_the_same_file(scheme: str, tmp_path: Path) -> None:
    root = tmp_path.as_uri() if scheme == "file" else f"memory://{tmp_path.name}"
    destination = ResultDestination(root, max_xcom_bytes=50)
    first = xcom_of(result(500), model="m", destination=destination)
    assert first == xcom_of(result(500), model="m", destination=destination)
    assert first["uris"] == [first["uri"]]
    assert stored_result("r-1", destination).for_xcom["uri"] == first["uri"]
    assert stored_result("r-2", destination) is None


def test_a_small_result_is_the_xcom_value_and_stored_as_well(tmp_path: Path) -> None:
    body = xcom_of(result(), model="m", destination=ResultDestination(tmp_path.as_uri()))
    assert body["output"] == "é" * 10
    assert json.loads((tmp_path / "r-1.json").read_text()) == body


def test_a_large_result_without_an_output_path_goes_to_xcom_whole_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert (
        xcom_of(result(500), model="m", destination=ResultDestination(None, max_xcom_bytes=50))["output"] == "é" * 500
    )
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "over max_xcom_bytes (50)" in warnings[0]
    assert "é" not in warnings[0]


@pytest.mark.parametrize("folder", ["overflow", "overflow/", "overflow.d", "answers.json"])
def test_only_large_results_go_to_the_folder_for_all_tasks(folder: str, tmp_path: Path) -> None:
    destination = ResultDestination(None, 50, f"memory://{tmp_path.name}/{folder}")
    manifest = xcom_of(result(500), model="m", destination=destination)
    assert manifest["uri"].endswith(f"{folder.rstrip('/')}/r-1.json")
    assert stored_result("r-1", destination).for_xcom["uri"] == manifest["uri"]
    small = ResultDestination(None, 5000, f"memory://{tmp_path.name}-small/{folder}")
    assert xcom_of(result(), model="m", destination=small)["output"] == "é" * 10
    assert stored_result("r-1", small) is None


@pytest.mark.parametrize(
    ("destination", "carries"),
    [
        (ResultDestination(None, 50), False),
        (ResultDestination(None, 50, "memory://event"), True),
        (ResultDestination("memory://event", 50), True),
    ],
)
def test_no_event_carries_a_large_body(destination: ResultDestination, carries: bool) -> None:
    value = store_for_event(result(500), model="m", destination=destination, downloads=Downloads())
    assert (value is not None) == carries
    assert value is None or len(json.dumps(value.for_xcom)) < 1000


def xcom_of(*given: Any, **options: Any) -> Any:
    return store_result(*given, **options).for_xcom


def read(text: str) -> RequestResult:
    return state("r-1", RequestResult, "", Response(200, text.encode()))


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize(
    "output",
    [
        "9" * 400,
        "-" + "9" * 5000,
        "9" * 25,
        str(2**64),
        str(-(2**63) - 1),
        "1e400",
        "[2e308]",
        '[1, {"deep": ' + nested(300) + "}]",
        nested(101),
        nested(999),
        nested(20_000),
        '{"a": ' * 3000 + "1" + "}" * 3000,
        '{"a\\u0000": 1, "a�": 2}',
    ],
    ids=range(13),
)
@pytest.mark.parametrize("path", [None, "memory://odd"])
def test_a_body_that_no_reader_supports_is_carried_whole_as_a_string_of_json(
    output: str, path: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    text = f'{{"request_id": "r-1", "status": "COMPLETED", "output": {output}, "more": "é"}}'
    destination = ResultDestination(path, max_xcom_bytes=1_000_000)
    value = xcom_of(read(text), model="m", destination=destination)
    assert isinstance(value, str)
    assert "".join(output.split()) in "".join(value.split())
    assert '"more": "é"' in value
    assert "as a string of JSON" in caplog.text
    assert store_for_event(read(text), model="m", destination=destination, downloads=Downloads()) is None
    if path is not None:
        assert stored_result("r-1", destination).for_xcom == value


@pytest.mark.parametrize(
    "output", [str(2**64 - 1), str(-(2**63)), nested(98), "1e308", "17E307", '"1e999"', "0." + "3" * 400, "1E+10"]
)
def test_a_body_that_readers_support_stays_data(output: str) -> None:
    value = xcom_of(
        read(f'{{"request_id": "r-1", "status": "COMPLETED", "output": {output}}}'),
        model="m",
        destination=ResultDestination(),
    )
    assert value["output"] == json.loads(output)


@pytest.mark.parametrize("output", ["a\\u0000b", "\\u0000", "\\ud83d"])
def test_what_databases_refuse_in_a_string_is_replaced_and_logged(
    output: str, caplog: pytest.LogCaptureFixture
) -> None:
    text = f'{{"request_id": "r-1", "status": "COMPLETED", "output": "{output}", "k\\u0000": ["{output}"]}}'
    value = xcom_of(read(text), model="m", destination=ResultDestination())
    assert "\x00" not in json.dumps(value, ensure_ascii=False)
    assert value["k\ufffd"] == [value["output"]]
    assert "U+FFFD" in caplog.text


ANY_TEXT = st.text(st.characters(codec=None) | st.sampled_from("\x00\ud83d\udc00é"), max_size=8)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | ANY_TEXT | st.integers() | st.integers(250, 5000).map(lambda n: 10**n),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=12,
)


def wrapped(value: Any, depth: int) -> str:
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    try:
        return "[" * depth + json_text(value) + "]" * depth
    finally:
        sys.set_int_max_str_digits(limit)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(output=st.builds(wrapped, ANY_JSON, st.sampled_from([0, 1, 90, 150, 400, 2000])))
@example(output='{"__classname__": "os.system", "__version__": 1, "__data__": {}}')
@example(output='[{"__id__": 1}, {"__type": "dict", "__var": 1}]')
def test_any_output_of_a_model_crosses_airflows_own_serialisation(output: str) -> None:
    comms = pytest.importorskip("airflow.sdk.execution_time.comms")
    from airflow.sdk.bases.xcom import BaseXCom

    text = f'{{"request_id": "r-1", "status": "COMPLETED", "output": {output}, "metrics": {{"cost": {output}}}}}'
    content = text.encode("utf-8", "surrogatepass")
    result = state("r-1", RequestResult, "", Response(200, content))
    for destination in (ResultDestination(), ResultDestination(None, 0, "memory://nasty")):
        sent = BaseXCom.serialize_value(xcom_of(result, model="m", destination=destination))
        message = comms.SetXCom(key="k", value=sent, dag_id="d", run_id="r", task_id="t")
        frame = comms._new_encoder().encode(message.model_dump(exclude_unset=True))
        assert b"\x00" not in json.dumps(sent, ensure_ascii=False, allow_nan=False).encode()
        assert frame


@pytest.mark.parametrize(
    "output", ['{"\\ud800": null}', '{"a": [{"\\udfff b": {"\\ud83d": "\\ud83d"}}]}', '["\\ud800", {"x\\ud800": 1.5}]']
)
def test_half_of_a_surrogate_pair_in_a_name_does_not_lose_the_result(output: str, tmp_path: Path) -> None:
    for destination in (ResultDestination(), ResultDestination(tmp_path.as_uri(), 0)):
        content = f'{{"request_id": "r-1", "status": "COMPLETED", "output": {output}, "metrics": {{"cost": 0.5}}}}'
        found = xcom_of(read(content), model="m", destination=destination)
        assert json.dumps(found, ensure_ascii=False).encode()
        assert found["metrics"] == {"cost": 0.5}
    assert json.loads((tmp_path / "r-1.json").read_bytes())["metrics"] == {"cost": 0.5}


@pytest.mark.postgres
@pytest.mark.parametrize(
    "output", [nested(90), nested(400), "9" * 400, '"\\u0000"', '"\\ud83d"', '{"\\u0000": NaN}', "1e999"], ids=range(7)
)
def test_postgresql_accepts_what_xcom_carries(output: str) -> None:
    psycopg2 = pytest.importorskip("psycopg2")
    value = xcom_of(
        read(f'{{"request_id": "r-1", "status": "COMPLETED", "output": {output}}}'),
        model="m",
        destination=ResultDestination(),
    )
    with contextlib.closing(psycopg2.connect(POSTGRES)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT %s::jsonb", [json.dumps(value)])
        assert cursor.fetchone()[0] == value


def naming(url: str, **fields: Any) -> RequestResult:
    return RequestResult.model_validate({"request_id": "r-1", "status": "COMPLETED", "output": url, **fields})


@pytest.mark.parametrize("model", ["flux-dev", "some-new-model"])
def test_a_result_that_names_a_private_host_is_stored_itself_and_sends_no_request(
    victim: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture, model: str
) -> None:
    address = f"{victim.url}/secret.png"

    body = xcom_of(
        naming(address, images=[{"url": address}]), model=model, destination=ResultDestination(tmp_path.as_uri())
    )

    assert victim.seen == []
    assert body["output"] == address
    assert json.loads((tmp_path / "r-1.json").read_text()) == body
    assert "not public" in caplog.text
    assert address not in caplog.text


def test_a_file_of_the_connection_s_host_is_downloaded(victim: Site, tmp_path: Path) -> None:
    manifest = xcom_of(
        naming(f"{victim.url}/secret.png"),
        model="flux-dev",
        destination=ResultDestination(tmp_path.as_uri()),
        downloads=victim.allowed,
    )

    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"secret"]
    assert manifest["bytes"] == 6


def test_a_download_error_is_raised_even_if_the_response_cannot_be_stored(
    victim: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Mock()

    def refuse(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("airflow_provider_segmind.compat.ObjectStoragePath.write_bytes", refuse, raising=False)
    monkeypatch.setattr("airflow_provider_segmind.result_storage.log", log)

    with pytest.raises(SegmindDownloadError, match="max_result_bytes"):
        xcom_of(
            naming(f"{victim.url}/secret.png"),
            model="flux-dev",
            destination=ResultDestination(tmp_path.as_uri()),
            downloads=Downloads(DownloadLimits(max_bytes=3), victim.allowed.hosts),
        )

    (message, *values), _ = log.warning.call_args
    assert "could not be stored in" in message % tuple(values)
    assert "disk full" in message % tuple(values)


def test_the_rest_of_a_file_that_is_too_large_is_removed(victim: Site, tmp_path: Path) -> None:
    downloads = Downloads(DownloadLimits(max_bytes=3), victim.allowed.hosts)

    with pytest.raises(SegmindDownloadError, match="max_result_bytes"):
        xcom_of(
            naming(f"{victim.url}/secret.png"),
            model="flux-dev",
            destination=ResultDestination(tmp_path.as_uri()),
            downloads=downloads,
        )

    (path,) = tmp_path.iterdir()
    assert path.name.endswith(".not-downloaded.json")
    assert json.loads(path.read_bytes())["output"] == f"{victim.url}/secret.png"


@pytest.mark.parametrize(
    "error", [SegmindConnectionError("reset"), SegmindResponseError("a web page"), OSError("disk full")], ids=str
)
def test_a_part_of_a_file_is_removed_whatever_went_wrong(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(_: object, open_sink: Any, **__: object) -> int:
        with open_sink(".png") as sink:
            sink.write(b"sec")
        raise error

    monkeypatch.setattr("airflow_provider_segmind.result_storage.download", break_off)

    with pytest.raises(type(error)):
        xcom_of(naming("https://x/secret.png"), model="flux-dev", destination=ResultDestination(tmp_path.as_uri()))

    assert [path for path in tmp_path.iterdir() if path.suffix == ".png"] == []


@pytest.mark.parametrize("name", ["", "/cat.png"])
def test_the_response_is_kept_when_its_file_cannot_be_downloaded_and_a_retry_downloads_it(
    victim: Site, tmp_path: Path, name: str
) -> None:
    destination = ResultDestination(tmp_path.as_uri() + name)
    result = naming(f"{victim.url}/secret.png")
    for limit in (3, 100):
        downloads = Downloads(DownloadLimits(max_bytes=limit), victim.allowed.hosts)
        assert stored_result(result.request_id, destination) is None
        with contextlib.suppress(SegmindDownloadError):
            xcom_of(result, model="flux-dev", destination=destination, downloads=downloads)

    kept, file = sorted(tmp_path.iterdir(), key=lambda path: path.suffix)
    assert json.loads(kept.read_bytes())["request_id"] == result.request_id
    assert file.read_bytes() == b"secret"


@pytest.mark.parametrize("name", ["out", "out/answer.json", "out/cat.png"])
def test_files_of_an_unknown_model_are_downloaded_only_to_a_path_for_files(
    victim: Site, tmp_path: Path, name: str
) -> None:
    destination = ResultDestination((tmp_path / name).as_uri())

    xcom_of(
        naming(f"{victim.url}/secret.png"), model="some-new-model", destination=destination, downloads=victim.allowed
    )

    assert bool(victim.seen) is name.endswith(".png")


@pytest.mark.parametrize(
    ("path", "wants"),
    [("out/cat.png", True), ("out/clip.mp4", True), ("out/say.mp3", True), ("out/answer.json", False), ("out", False),
     ("out/a.txt", False), (None, False)],
)  # fmt: skip
def test_a_path_of_an_image_a_video_or_a_sound_asks_for_files(path: str | None, wants: bool) -> None:
    assert ResultDestination(path).wants_files is wants


def test_no_address_is_fetched_for_a_process_that_reads_the_body_itself(victim: Site, tmp_path: Path) -> None:
    destination = ResultDestination(tmp_path.as_uri(), max_xcom_bytes=None)

    body = xcom_of(
        naming(f"{victim.url}/secret.png"), model="flux-dev", destination=destination, downloads=victim.allowed
    )

    assert (victim.seen, body["output"]) == ([], f"{victim.url}/secret.png")


@pytest.mark.parametrize("status", ["COMPLETED", "completed"])
def test_an_expired_result_is_recovered_from_its_entry_of_the_history(status: str, tmp_path: Path) -> None:
    record = RequestRecord(
        request_id="r-1", model_status=status, credits_deduction=0.04, generation_url="text of a model"
    )
    stored = recovered(record, tmp_path)
    assert stored.for_xcom["output"] == "text of a model"
    assert stored.for_xcom["metrics"] == {"cost": 0.04}


def test_all_outputs_of_an_expired_request_are_recovered() -> None:
    urls = ("https://a.example/1.png", "https://a.example/2.png")
    record = RequestRecord(request_id="r-1", model_status="COMPLETED", generation_url=urls[0], generation_urls=urls)
    assert recovered(record, None).for_xcom["output"] == list(urls)


@pytest.mark.parametrize("status", ["FAILED", "failed"])
def test_an_expired_request_that_had_failed_is_not_billed(status: str, tmp_path: Path) -> None:
    with pytest.raises(SegmindRequestFailedError, match="too red") as caught:
        recovered(RequestRecord(request_id="r-1", model_status=status, error="too red"), tmp_path)
    assert caught.value.cost == 0.0


@pytest.mark.parametrize(("deduction", "cost"), [(0.0, None), (0.04, 0.04)])
def test_the_bill_of_an_expired_request_in_progress_is_unknown_and_not_zero(
    deduction: float, cost: float | None, tmp_path: Path
) -> None:
    record = RequestRecord(request_id="r-1", model_status="PENDING", credits_deduction=deduction)
    with pytest.raises(SegmindRequestExpiredError) as caught:
        recovered(record, tmp_path)
    assert caught.value.cost == cost


@pytest.mark.parametrize(
    ("failure", "retryable"),
    [
        (SegmindServerError("500"), True),
        (SegmindConnectionError("no route"), True),
        (SegmindBadRequestError("404"), False),
    ],
    ids=str,
)
def test_an_expired_result_is_looked_for_again_where_the_history_could_not_be_read(
    failure: SegmindError, retryable: bool, tmp_path: Path
) -> None:
    with pytest.raises(SegmindRequestExpiredError, match=f"does not have it either: {failure}") as caught:
        recovered(failure, tmp_path)
    assert caught.value.retryable is retryable


def recovered(record: RequestRecord | SegmindError, folder: Path | None) -> Any:
    client: Any = Mock(drive=Mock(side_effect=[record]), config=ClientConfig(api_key="k"))
    expired = SegmindRequestExpiredError("gone", request_id="r-1", age=4000.0)
    destination = ResultDestination(None if folder is None else folder.as_uri(), max_xcom_bytes=9999)
    return recover_result(client, expired, model="m", destination=destination)


def test_a_manifest_whose_files_are_gone_is_ignored(tmp_path: Path) -> None:
    picture = tmp_path / "r-1.png"
    manifest = ResultManifest(request_id="r-1", uris=(picture.as_uri(),))
    assert stored_result("r-1", ResultDestination(), manifest) is None
    picture.write_bytes(b"x")
    assert stored_result("r-1", ResultDestination(), manifest) == StoredResult(manifest=manifest)


def test_half_a_file_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "r-1.json").write_text('{"request_id": "r-1", "out')
    assert stored_result("r-1", ResultDestination(tmp_path.as_uri())) is None


def test_files_in_a_store_that_does_not_answer_are_not_taken_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    # Airflow knows no store in memory.
    monkeypatch.setattr("airflow_provider_segmind.compat.ObjectStoragePath", UPath)
    manifest = ResultManifest(request_id="r-1", uris=("memory://segmind-results/r-1.png",))
    assert stored_result("r-1", ResultDestination(), manifest) is None

    def info(store: MemoryFileSystem, path: str, **options: Any) -> Any:
        raise OSError("Forbidden: the token has expired")

    # As the stores of Google and Azure are, which inherit both from fsspec.
    monkeypatch.setattr(MemoryFileSystem, "exists", AbstractFileSystem.exists)
    monkeypatch.setattr(MemoryFileSystem, "info", info)
    with pytest.raises(OSError, match="Forbidden"):
        stored_result("r-1", ResultDestination(), manifest)
