"""A store whose package is missing, as it is in the environment of these tests."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from types import SimpleNamespace

import pytest

from airflow_provider_segmind.exceptions import SegmindConfigError
from airflow_provider_segmind.execution.file_table import locate_named
from airflow_provider_segmind.stores import PACKAGES, missing_package
from airflow_provider_segmind.task_state import Identity, PathTaskState

STORES = {
    "s3://aws_default@bucket/out.csv": "apache-airflow-providers-amazon[s3fs]",
    "gs://google_cloud_default@bucket/out.csv": "apache-airflow-providers-google",
    "abfs://azure_default@container/out.csv": "apache-airflow-providers-microsoft-azure",
}
every_store = pytest.mark.parametrize(("uri", "package"), STORES.items())


@pytest.fixture(autouse=True)
def absent() -> None:
    for package in STORES.values():
        with pytest.raises(PackageNotFoundError):
            version(package.partition("[")[0])


@every_store
def test_a_path_in_a_store_without_its_package_names_the_package(uri: str, package: str) -> None:
    with pytest.raises(SegmindConfigError) as raised:
        locate_named("output_path", uri)

    assert f"'output_path' is {uri!r}" in str(raised.value)
    assert f"install {package} where tasks and triggers run" in str(raised.value)
    assert str(raised.value).endswith("Nothing was sent.")


@every_store
def test_a_record_that_cannot_be_kept_without_a_package_is_no_reason_to_retry(uri: str, package: str) -> None:
    instance = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1)
    state = PathTaskState(uri.rpartition("/")[0], Identity({"ti": instance}))  # type: ignore[typeddict-item]

    with pytest.raises(SegmindConfigError, match="Nothing was sent") as raised:
        state.read()

    assert package in str(raised.value)


def test_other_errors_of_a_store_name_no_package() -> None:
    assert missing_package("s3://bucket/a", ValueError("Bucket name must not be empty")) is None
    assert missing_package("ftp://host/a", ImportError("no ftp")) is None
    assert set(PACKAGES.values()) == set(STORES.values())
