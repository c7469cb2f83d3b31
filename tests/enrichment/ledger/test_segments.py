"""Files of the ledger that are whole, and those that are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from tests.support.ledger_events import claimed, finished, mark, submitted
from tests.support.ledger_folders import opened, written


def test_segments_can_be_read_with_ls_and_jq(tmp_path: Path) -> None:
    written(tmp_path, [claimed(1)], [finished(1)])
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["00000000005000-w-000000.jsonl", "00000000005000-w-000001.jsonl"]
    lines = [json.loads(line) for line in (tmp_path / names[1]).read_text().splitlines()]
    assert [line["event"] for line in lines] == ["finished", "end"]
    assert lines[0]["fingerprint"] == mark(1).hex()


@pytest.mark.parametrize("cut", [0, 1, 40, -1, -2, -30])
def test_a_torn_segment_is_unreadable_and_not_absent(tmp_path: Path, cut: int) -> None:
    written(tmp_path, [claimed(1), submitted(1)])
    path = next(tmp_path.iterdir())
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    if cut == -1:  # only the last line end is missing: everything that was written can be checked
        opened(tmp_path)
        return
    with pytest.raises(SegmindEnrichmentError, match="cannot be read") as caught:
        opened(tmp_path)
    assert caught.value.retryable


def test_a_changed_byte_is_seen(tmp_path: Path) -> None:
    written(tmp_path, [submitted(1, request_id="abc")])
    path = next(tmp_path.iterdir())
    path.write_bytes(path.read_bytes().replace(b"abc", b"abd"))
    with pytest.raises(SegmindEnrichmentError):
        opened(tmp_path)


def test_a_half_written_file_is_ignored(tmp_path: Path) -> None:
    written(tmp_path, [finished(1)])
    (tmp_path / ".00000000005000-w-000007.jsonl.1f.tmp").write_bytes(b'{"event":"cla')
    assert opened(tmp_path).row_state(mark(1)).success
