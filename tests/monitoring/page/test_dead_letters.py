"""The page reads dead letters from configured folders only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.page_runs import LETTER, RUN_PATH, Visit, add_table, letters

if TYPE_CHECKING:
    from tests.support.metadata import Metadata

__all__ = ["letters"]
pytestmark = pytest.mark.airflow


def test_dead_letters_are_filtered_and_downloaded(visit: Visit, stored: Metadata, letters: str) -> None:
    add_table(stored, dead_letters=[letters])

    shown = visit("viewer").get(RUN_PATH + "?outcome=truncated&reason=TOO").text
    answer = visit("viewer").get(RUN_PATH + "/dead-letters.jsonl?outcome=truncated")

    assert "<td>failed</td>" not in shown
    assert "<td>truncated</td>" in shown
    assert answer.headers["content-disposition"] == 'attachment; filename="dead_letters.jsonl"'
    rows = [json.loads(line) for line in answer.text.splitlines()]
    assert [row["row"] for row in rows] == list(range(4, 200))
    assert rows[0] == {**LETTER, "row": 4, "outcome": "truncated", "reason": "too long"}


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "{folder}/../secret.jsonl",
        "{folder}-of-others/x.jsonl",
        "file://{folder}/../secret.jsonl",
        "s3://bucket/x.jsonl",
        "x.jsonl",
    ],
)
def test_dead_letters_outside_the_configured_folders_are_not_read(
    visit: Visit, stored: Metadata, letters: str, path: str
) -> None:
    folder = str(Path(letters).parent)
    Path(folder).with_name("secret.jsonl").write_text(json.dumps({**LETTER, "key": {"sku": "SECRET"}}) + "\n")
    add_table(stored, dead_letters=[path.format(folder=folder)])

    text = visit().get(RUN_PATH).text
    answer = visit().get(RUN_PATH + "/dead-letters.jsonl")

    assert "SECRET" not in text
    assert "root:" not in text
    assert "is in none of the folders that this page may read" in text
    assert answer.status_code == 409
    assert "SECRET" not in answer.text


def test_a_link_out_of_the_configured_folder_is_not_followed(visit: Visit, stored: Metadata, letters: str) -> None:
    secret = Path(letters).parent.with_name("secret.jsonl")
    secret.write_text(json.dumps({**LETTER, "key": {"sku": "SECRET"}}) + "\n")
    link = Path(letters).with_name("link.jsonl")
    link.symlink_to(secret)
    add_table(stored, dead_letters=[str(link)])

    text = visit().get(RUN_PATH).text

    assert "SECRET" not in text
    assert "is in none of the folders that this page may read" in text


def test_a_file_that_cannot_be_read_or_is_too_large_is_a_sentence(
    visit: Visit, stored: Metadata, letters: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_table(stored, dead_letters=[letters])
    monkeypatch.setattr("airflow_provider_segmind.monitoring.page.dead_letters.MAX_FILE_BYTES", 1000)
    large = visit().get(RUN_PATH)
    Path(letters).unlink()
    missing = visit().get(RUN_PATH)

    assert (large.status_code, missing.status_code) == (200, 200)
    assert "but this page reads at most 0 MB" in large.text
    assert "cannot be read from the API server (FileNotFoundError)" in missing.text
    assert "488" in missing.text


def test_a_store_that_the_api_server_does_not_know_is_a_sentence(
    visit: Visit, stored: Metadata, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__SEGMIND__PAGE_PATHS", "nowhere://bucket/a, nowhere://bucket/results")
    add_table(stored, dead_letters=["nowhere://bucket/results/x.jsonl"])

    answer = visit().get(RUN_PATH)

    assert answer.status_code == 200
    assert "cannot be read from the API server" in answer.text
