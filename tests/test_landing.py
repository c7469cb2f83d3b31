"""Where a result goes: XCom, a folder, a file; the same files every time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_provider_segmind.api.models import RequestResult
from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.landing import Place, land, landed_before


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
    assert str(Place(path, 0).file("r-1", ".json")).endswith(names)


@pytest.mark.parametrize("scheme", ["file", "memory"])
def test_landing_twice_writes_the_same_file(scheme: str, tmp_path: Path) -> None:
    root = tmp_path.as_uri() if scheme == "file" else f"memory://{tmp_path.name}"
    place = Place(root, max_xcom_bytes=50)
    first = land(result(500), model="m", place=place)
    assert first == land(result(500), model="m", place=place)
    assert first["uris"] == [first["uri"]]
    assert landed_before("r-1", place)["uri"] == first["uri"]
    assert landed_before("r-2", place) is None


def test_a_small_result_is_the_xcom_value_and_landed_as_well(tmp_path: Path) -> None:
    body = land(result(), model="m", place=Place(tmp_path.as_uri()))
    assert body["output"] == "é" * 10
    assert json.loads((tmp_path / "r-1.json").read_text()) == body


def test_too_large_without_a_place_says_what_to_do() -> None:
    with pytest.raises(SegmindConfigError, match="set output_path") as caught:
        land(result(500), model="m", place=Place(None, max_xcom_bytes=50))
    assert "é" not in str(caught.value)


def test_a_manifest_whose_files_are_gone_is_not_believed(tmp_path: Path) -> None:
    picture = tmp_path / "r-1.png"
    manifest = {"uri": picture.as_uri(), "uris": [picture.as_uri()]}
    assert landed_before("r-1", Place(), manifest) is None
    picture.write_bytes(b"x")
    assert landed_before("r-1", Place(), manifest) == manifest


def test_half_a_file_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "r-1.json").write_text('{"request_id": "r-1", "out')
    assert landed_before("r-1", Place(tmp_path.as_uri())) is None
