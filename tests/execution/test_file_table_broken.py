"""Sources that break, and columns that are missing or cannot be read, through the operator."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_segmind.enrichment.storage import StorePath, write_whole
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindEnrichmentError
from airflow_provider_segmind.execution import file_table
from tests.support.airflow_fakes import Run
from tests.support.table_tasks import Table, read, things


def manifest_of(table: Table) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(table.output.with_name("colours.manifest.json").read_text())
    return found


def test_a_bad_line_fails_the_task_after_the_earlier_rows_are_written(table: Table) -> None:
    source = Path(table.write(things(*map(str, range(60)))))
    good = source.read_text()
    source.write_text(good + '{"id": 60, "th\n')

    with pytest.raises(AirflowFailException, match=r"Line 61 of .*things\.jsonl' cannot be read: it is not JSON"):
        table.ask(source=str(source))

    assert [row["_segmind_status"] for row in table.rows] == ["success"] * 60
    assert (manifest_of(table)["rows_read"], manifest_of(table)["complete"]) == (60, False)
    assert table.dead_letters == []
    source.write_text(good + '{"id": 60, "thing": "60"}\n')
    assert table.ask(source=str(source))["complete"]
    assert table.posts == len(table.emulator.bill) == 61


@pytest.mark.parametrize("bad", ["", " \n", None, "half \ud83d"])
@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("asked", [{"prompt": "{thing}"}, {"prompt": "Name a colour.", "system": "{thing}"}])
def test_a_row_that_cannot_be_sent_is_skipped_wherever_it_is(
    table: Table, bad: str | None, place: int, asked: dict[str, str]
) -> None:
    rows = things("sky", "rose")
    rows[place]["thing"] = bad

    manifest = table.ask(source=table.write(rows), on_partial="succeed", **asked)

    assert (manifest["outcomes"]["success"], manifest["outcomes"]["skipped"], table.posts) == (1, 1, 1)
    (letter,) = table.dead_letters
    assert (letter["row"], letter["outcome"]) == (place, "skipped")
    assert letter["reason"].endswith("Nothing was sent for this row.")
    assert f"row {place}" in letter["reason"]


def test_a_list_of_rows_and_a_missing_file_asks_about_the_rows(table: Table) -> None:
    with pytest.raises(AirflowFailException, match=r"after 2 rows\. There is no table at .*nope\.csv") as caught:
        table.ask(source=[*things("a", "b"), str(table.folder / "nope.csv")])
    assert "Nothing was sent" not in str(caught.value)
    assert [row["id"] for row in table.rows] == [0, 1]
    with pytest.raises(AirflowFailException, match="Entry 1 of the source is an int"):
        table.ask(source=[things("a")[0], 3])


def test_a_list_with_a_file_of_unknown_format_is_refused_before_anything_is_sent(table: Table) -> None:
    with pytest.raises(AirflowFailException, match=r"The format of 'b\.tsv' is unknown"):
        table.ask(source=[table.write(things("a")), str(table.folder / "b.tsv")])
    assert table.posts == 0


def test_a_store_that_fails_while_it_is_read_is_retryable(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    class Away:
        def __iter__(self) -> Any:
            yield from things("a", "b")
            raise ConnectionResetError("gone")

    with pytest.raises(SegmindEnrichmentError, match=r"after 2 rows,? cannot be read: ConnectionResetError") as caught:
        table.ask(source=Away())
    assert caught.value.retryable
    assert len(table.rows) == table.posts == 2


def test_a_sample_is_kept_when_the_source_breaks_later(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    source = Path(table.write(things("a", "b", "c")))
    source.write_text(source.read_text() + "no json\n")
    assert table.ask(source=str(source), sample=2)["rows_read"] == 2
    assert re.search(r"cost \$0\.0000\d+ on average.*cannot be counted: Line 4 of ", caplog.text)


def test_a_sample_is_kept_whatever_error_ends_the_rows(table: Table, caplog: pytest.LogCaptureFixture) -> None:
    class Gone:
        def __iter__(self) -> Any:
            yield from things("a", "b", "c")
            raise KeyError("no such XCom")

    assert table.ask(source=Gone(), sample=2)["rows_read"] == 2
    assert "cannot be counted: The source, after 3 rows, cannot be read: KeyError." in caplog.text
    assert "no such XCom" not in caplog.text


@pytest.mark.parametrize("name", ["first-name", "First Name", "a.b", "größe", "2nd", "a:b"])
def test_any_column_name_fills_a_placeholder_and_rows_without_it_are_skipped(table: Table, name: str) -> None:
    rows = [{"id": 1, name: "Ann", "x": 1}, {"id": 2, "x": 2}]
    table.ask(source=table.write(rows), prompt=f"Greet {{{name}}} {{x}}.", on_partial="succeed")
    assert (table.posts, table.rows[0]["answer"]) == (1, "echo: Greet Ann 1.")
    assert [row["_segmind_status"] for row in table.rows] == ["success", "skipped"]
    assert f"no column '{name}'" in table.dead_letters[0]["reason"]


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    "prompt", ["Greet {first-name}.", "Greet {thing} {Last Name}.", "Greet {thing}, {thing.colour}"]
)
@pytest.mark.parametrize("mask", [False, True])
def test_a_placeholder_without_a_column_is_refused_unpaid(table: Table, prompt: str, dry_run: bool, mask: bool) -> None:
    with pytest.raises(AirflowFailException, match=r"no column .*Its columns are: id, thing\. Nothing was sent"):
        table.ask(source=table.write(things("a", "b")), prompt=prompt, dry_run=dry_run, mask_prompts=mask)
    assert not table.posts


def test_only_the_needed_columns_are_read_from_parquet(table: Table) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    far = arrow.array([2**62, 2**62], arrow.int64()).cast(arrow.timestamp("us"))
    parquet.write_table(arrow.table({"id": [1, 2], "thing": ["a", "b"], "created": far}), table.folder / "t.parquet")

    table.ask(source=str(table.folder / "t.parquet"))
    assert [row["_segmind_status"] for row in table.rows] == ["success", "success"]
    manifest = table.ask(source=str(table.folder / "t.parquet"), prompt="When? {created}", on_partial="succeed")
    assert manifest["outcomes"]["skipped"] == 2
    assert "column 'created'" in table.dead_letters[0]["reason"]
    with pytest.raises(AirflowFailException, match="Its columns are: created, id, thing"):
        table.ask(source=str(table.folder / "t.parquet"), prompt="{thin}")


@pytest.mark.parametrize(
    ("output", "ledger", "named"),
    [
        ("things.jsonl", "led", "'output_path' is the source itself|'output_path' creates"),
        ("./things.jsonl", "led", "'output_path' creates"),
        ("led/out.jsonl", "led", "'output_path' puts"),
        ("things.jsonl/deep/out.jsonl", "led", "'output_path': .* cannot be written"),
        ("folder.jsonl", "led", "'output_path' names .* which is a folder"),
        ("/proc/none/out.jsonl", "led", "'output_path': .* cannot be written"),
        ("out.jsonl", "things.jsonl", "'ledger_path' .* is a file"),
        ("nowhere://bucket/out.jsonl", "led", "'output_path' is .* in a storage system that this Airflow"),
    ],
)
def test_an_output_that_cannot_be_written_is_named_before_anything_is_sent(
    table: Table, output: str, ledger: str, named: str
) -> None:
    source = table.write(things("sky"))
    (table.folder / "folder.jsonl").mkdir()
    place = output if "://" in output or output[0] == "/" else f"{table.folder}/{output}"
    with pytest.raises((AirflowFailException, SegmindConfigError), match=named):
        table.ask(source=source, output_path=place, ledger_path=str(table.folder / ledger))
    assert not table.posts
    assert read(Path(source)) == things("sky")


@pytest.mark.parametrize("source", ["nowhere://bucket/t.csv", [{"id": 1, "thing": "sky"}, "nowhere://bucket/t.csv"]])
def test_a_source_in_an_unknown_store_is_named_before_anything_is_sent(table: Table, source: Any) -> None:
    with pytest.raises(
        AirflowFailException, match=r"'source' is 'nowhere://bucket/t\.csv', in a storage system that this Airflow"
    ):
        table.ask(source=source)
    assert not table.posts


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 100 + b"PAR1"])
def test_a_broken_parquet_file_is_named(table: Table, content: bytes) -> None:
    pytest.importorskip("pyarrow")
    path = table.folder / "t.parquet"
    path.write_bytes(content)
    with pytest.raises(AirflowFailException, match=r"t\.parquet' cannot be read: it is not Parquet.*Nothing was sent"):
        table.ask(source=str(path))


def test_answers_that_cannot_be_written_are_in_the_ledger_and_a_retry_writes_them(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_a_full_disk(path: StorePath) -> Any:
        if path == table.output:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_whole(path)

    with monkeypatch.context() as full:
        full.setattr("airflow_provider_segmind.enrichment.files.writers.write_whole", on_a_full_disk)
        with pytest.raises(
            SegmindEnrichmentError,
            match=r"Writing the answers to .*colours\.jsonl failed: No space left on device\. They are in the ledger: "
            r"a retry writes them and pays nothing again",
        ) as error:
            table.ask(source=things("sky", "rose"))

    assert error.value.retryable
    assert table.ask(source=things("sky", "rose"))["outcomes"]["success"] == 2
    assert table.posts == len(table.rows) == 2


def test_instances_of_a_mapped_task_do_not_replace_each_others_output(table: Table) -> None:
    table.run = Run(map_index=0)
    table.ask(source=things("sky"))
    table.run = Run(map_index=1)

    with pytest.raises(AirflowFailException, match=r"map index 0.*\{\{ ti.map_index \}\}.*Nothing was sent"):
        table.ask(source=things("grass"))

    assert (table.posts, [row["id"] for row in table.rows]) == (1, [0])
    table.ask(source=things("grass"), output_path=str(table.output.with_name("colours-1.jsonl")))
    table.run = Run(map_index=0)
    table.ask(source=things("sky", "sun"))
    table.run = Run(map_index=1, run_id="manual__2")
    table.ask(source=things("sky", "sun"))
    assert (table.posts, len(table.rows)) == (3, 2)


def test_an_instance_that_ends_after_another_one_keeps_its_answers_in_the_ledger(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    siblings = [Run(map_index=0), Run(map_index=1)]
    own = file_table.FileTableIO.check_own

    def while_the_other_ends(self: Any, *about: Any, **more: Any) -> None:
        if table.posts == 1 and len(siblings) == 2:
            table.run = siblings.pop(0)
            table.ask(source=things("sky"))
        own(self, *about, **more)

    monkeypatch.setattr(file_table.FileTableIO, "check_own", while_the_other_ends)
    table.run = siblings[1]
    with pytest.raises(
        AirflowFailException,
        match=r"map index 0.*in the ledger .*: with another file name it writes them, and pays nothing again. Help:",
    ):
        table.ask(source=things("grass"))
    assert (table.posts, [row["id"] for row in table.rows]) == (2, [0])

    # A retry first fetches what an earlier try may have sent, and so gets as far as this one.
    table.run = Run(map_index=1, try_number=2)
    with pytest.raises(AirflowFailException, match="in the ledger"):
        table.ask(source=things("grass", "rose"))
    assert table.posts == 3

    table.run = Run(map_index=1)
    other = table.output.with_name("colours-1.jsonl")
    table.ask(source=things("grass", "rose"), output_path=str(other))
    assert (table.posts, len(other.read_text().splitlines())) == (3, 2)


def test_an_instance_with_requests_in_progress_is_retried_for_their_answers(table: Table) -> None:
    table.run = Run(map_index=0)
    table.ask(source=things("sky"))
    table.run = Run(map_index=1, try_number=2)
    table.emulator.fault("status|result", status=401, times=None)

    with pytest.raises(SegmindConfigError, match=r"map index 0.*in the ledger") as caught:
        table.ask(source=things("grass"))

    assert caught.value.retryable
    table.emulator.unfault()
    with pytest.raises(AirflowFailException, match="in the ledger"):
        table.ask(source=things("grass"))
    assert table.posts == 2
