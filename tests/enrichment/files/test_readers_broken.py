"""A source that breaks is read up to there; the message says where and why, and whether a retry can help."""

from __future__ import annotations

import errno
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.enrichment.engine import Engine
from airflow_provider_segmind.enrichment.files import readers
from airflow_provider_segmind.enrichment.files.readers import cannot_be_read, open_source
from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.output import write_output
from airflow_provider_segmind.enrichment.question import Question
from airflow_provider_segmind.enrichment.row_reader import FIRST_ROWS
from airflow_provider_segmind.enrichment.rows import placeholders
from airflow_provider_segmind.enrichment.settings import Shard
from airflow_provider_segmind.exceptions import SegmindConfigError, SegmindEnrichmentError, SegmindError
from tests.support.engine_tuning import tuned
from tests.support.enrichment import Clock, FakeSegmind, build, question, table

CSV = "id,text\n" + "".join(f"{number},t{number}\n" for number in range(300))
JSONL = "".join(json.dumps({"id": number, "text": f"t{number}"}) + "\n" for number in range(300))


def read_on(source: Any) -> tuple[int, SegmindError]:
    """Return how many rows a source yields, and the error it breaks with."""
    count = 0
    try:
        for _ in open_source(source):
            count += 1
    except SegmindError as error:
        return count, error
    raise AssertionError("it did not break")


@pytest.mark.parametrize(
    ("name", "content", "rows", "words"),
    [
        ("t.jsonl", JSONL + '{"id": 300, "te\n{"id": 301}\n', 300, "Line 301 .* is not JSON"),
        ("t.jsonl", JSONL + "[1]\n", 300, "Line 301 .* is not a JSON object"),
        ("t.jsonl", JSONL + '{"id": 1, "id": 2}\n', 300, "Line 301 .* has a column name twice"),
        ("t.jsonl", JSONL + "\n\n" + '{"a": ' + "[" * 100_000 + "\n", 300, "Line 303 .* nested too deeply"),
        ("t.jsonl", JSONL + '{"a": ' + "9" * 5000 + "}\n", 300, "Line 301 .* a number has too many digits"),
        ("t.jsonl", JSONL.encode() + b'{"id": "\xff"}\n', 300, "Line 301 .* not UTF-8"),
        ("t.jsonl", JSONL.encode("utf-16"), 0, "Line 1 .* not UTF-8"),
        ("t.csv", CSV + "300,t,extra\n", 300, "Line 302 .* has 3 cells, but its header has 2"),
        ("t.csv", CSV + '300,"t"x\n', 300, "Line 302 .* is not CSV"),
        ("t.csv", CSV + '300,"t\n', 300, "Line 302 .* is not CSV"),
        ("t.csv", CSV.encode() + "300,Stühle\n301,x\n".encode("latin-1"), 300, "Line 302 .* not UTF-8"),
        ("t.csv", CSV.encode("utf-16"), 0, "Line 1 .* not UTF-8"),
        ("t.csv", CSV.encode("utf-16-le"), 0, "Line 1 .* not UTF-8"),
        ("t.csv", CSV.encode("utf-32-be"), 0, "Line 1 .* not UTF-8"),
    ],
)
def test_a_bad_line_is_named_after_the_rows_before_it(
    tmp_path: Path, name: str, content: str | bytes, rows: int, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    count, error = read_on(path)
    assert (count, error.retryable) == (rows, False)
    assert isinstance(error, SegmindConfigError)
    assert re.search(words, str(error))
    assert str(path) in str(error)
    assert "Stühle" not in str(error)


@pytest.mark.parametrize("name", ["t.jsonl.gz", "t.csv.gz"])
@pytest.mark.parametrize("damage", ["cut", "inside", "no gzip", "checksum"])
def test_damaged_gzip_is_named_and_not_tried_again(tmp_path: Path, name: str, damage: str) -> None:
    content = "".join(
        f'{{"id": {number}}}\n' if "jsonl" in name else f"{number},t\n" for number in range(5000)
    ).encode()
    packer = zlib.compressobj(wbits=31)
    half = packer.compress(content[: len(content) // 2]) + packer.flush(zlib.Z_FULL_FLUSH)
    whole = half + packer.compress(content[len(content) // 2 :]) + packer.flush()
    path = tmp_path / name
    path.write_bytes(
        {
            "cut": whole[: len(half) + 20],
            "inside": half + b"\xff" * (len(whole) - len(half)),
            "no gzip": content,
            "checksum": whole[:-8] + b"\0" * 8,
        }[damage]
    )
    count, error = read_on(path)
    assert str(path) in str(error)
    assert "compressed data" in str(error)
    assert not error.retryable
    assert count > 0 or damage == "no gzip"


def test_damage_that_unpacks_to_a_bad_line_is_told_as_damage(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl.gz"
    packed = bytearray(gzip.compress(JSONL.encode()))
    for place in range(len(packed) // 2, len(packed) - 8, 19):
        changed = bytearray(packed)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        _, error = read_on(path)
        assert "compressed data is damaged" in str(error) or "ends too early" in str(error)


def test_a_bad_line_in_a_sound_gzip_is_told_as_a_bad_line(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress((JSONL + "{no\n").encode()))
    count, error = read_on(tmp_path / "t.jsonl.gz")
    assert (count, "Line 301" in str(error), "is not JSON" in str(error)) == (300, True, True)


def test_a_damaged_page_of_parquet_is_called_damage_and_trouble_of_a_store_by_its_name() -> None:
    assert "not Parquet, or damaged" in str(cannot_be_read(OSError("Corrupt snappy compressed data."), "It"))
    assert "Input/output error" in str(cannot_be_read(OSError(errno.EIO, "Input/output error"), "It"))


def test_damaged_parquet_is_told_by_the_last_row_that_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(*_: object) -> Iterator[dict[str, int]]:
        yield from ({"a": number} for number in range(3))
        raise OSError("Corrupt snappy compressed data.")

    (tmp_path / "t.parquet").touch()
    monkeypatch.setattr(readers, "parquet_rows", torn)
    count, error = read_on(tmp_path / "t.parquet")
    assert (count, "t.parquet', after row 3, cannot be read: it is not Parquet" in str(error)) == (3, True)


@pytest.mark.parametrize("header", ["a, a", '\ufeff"a",a', "\ufeff\ufeffa,a", "a,b,a ", "a,,"])
def test_a_name_twice_in_a_header_is_refused_also_with_spaces_and_marks(tmp_path: Path, header: str) -> None:
    (tmp_path / "t.csv").write_text(header + "\n1,2\n")
    with pytest.raises(SegmindConfigError, match=r"t\.csv.*twice in its header"):
        list(open_source(tmp_path / "t.csv"))


class Broken(Exception):  # noqa: N818
    """What no reader of ours raises."""


TROUBLES = [
    (SegmindConfigError("line 21 is not JSON"), "line 21 is not JSON", False),
    (SegmindEnrichmentError("the session was ended", retryable=True), "the session was ended", True),
    (OSError(errno.EIO, "Input/output error"), "Input/output error", True),
    (ConnectionResetError("peer"), "ConnectionResetError", True),
    (OSError("Corrupt snappy compressed data."), "OSError", False),
    (UnicodeDecodeError("utf-8", b"secret", 0, 1, "invalid start byte"), "not UTF-8", False),
    (Broken("secret words of a row"), "Broken", True),
    (MemoryError(), "MemoryError", True),
    (KeyError("secret"), "KeyError", True),
]


class Night:
    """Runs over one ledger, each over rows that break, or do not."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Clock()
        self.segmind = FakeSegmind(self.clock, steps=4)
        self.rows: list[Any] = []
        self.manifest: Manifest | None = None

    async def run(self, rows: Any, asked: Question | None = None, **options: Any) -> SegmindError | None:
        settings = tuned(concurrency=4, commit_delay=0.001, block_rows=16)
        engine = Engine(
            question=asked or question(), rows=rows, ledger_folder=self.folder / "ledger", client=self.segmind,
            run_id="r", settings=settings, clock=self.clock, sleep=self.clock.sleep, **options,
        )  # fmt: skip
        error = None
        try:
            await engine.run()
        except SegmindError as caught:
            error = caught
        self.rows = []
        if engine.reader.rows_seen:
            self.manifest = write_output(engine, each=self.rows.append, dead_letters=self.folder / "dead_letters.jsonl")
        engine.close()
        return error


def breaking(trouble: BaseException, after: int) -> Iterator[dict[str, Any]]:
    yield from table(*map(str, range(after)))
    raise trouble


@pytest.mark.parametrize("after", [1, 15, 16, 20, 33])
@pytest.mark.parametrize(("trouble", "words", "again"), TROUBLES)
async def test_what_was_read_before_a_break_is_asked_and_written(
    tmp_path: Path, trouble: Exception, words: str, again: bool, after: int
) -> None:
    night = Night(tmp_path)
    error = await night.run(breaking(trouble, after))

    assert error is not None
    assert words in str(error)
    assert f"failed after {after} row{'s' if after > 1 else ''}." in str(error)
    assert "secret" not in str(error)
    assert "Nothing was sent" not in str(error)
    assert error.retryable is again
    assert night.manifest is not None
    assert (night.manifest.rows_read, night.manifest.outcomes["success"], night.manifest.complete) == (
        after,
        after,
        False,
    )
    assert "reading the source failed" in str(night.manifest.stopped)
    assert len(night.segmind.jobs) == after

    assert await night.run(table(*map(str, range(after + 5)))) is None
    assert night.manifest.outcomes["success"] == after + 5
    assert len(night.segmind.jobs) == after + 5


@pytest.mark.parametrize("after", [1, 3, 4, 6, 17])
async def test_rows_that_are_built_abreast_are_asked_before_a_break(tmp_path: Path, after: int) -> None:
    night = Night(tmp_path)
    error = await night.run(breaking(Broken(), after), question(parallel_builds=4))
    assert error is not None
    assert len(night.rows) == len(night.segmind.jobs) == after


@pytest.mark.parametrize("trouble", [Broken(), SegmindConfigError("There is no table.")])
async def test_a_source_that_breaks_before_its_first_row_sends_nothing(tmp_path: Path, trouble: Exception) -> None:
    night = Night(tmp_path)
    error = await night.run(breaking(trouble, 0))
    assert "Nothing was sent." in str(error)
    assert not night.segmind.posts


async def test_a_break_is_counted_by_each_shard(tmp_path: Path) -> None:
    read = 0
    for index in range(3):
        night = Night(tmp_path)
        assert await night.run(breaking(Broken(), 20), shard=Shard(index=index, count=3)) is not None
        assert night.manifest is not None
        assert night.manifest.rows_in_source == 20
        read += night.manifest.rows_read
    assert read == 20


async def test_a_store_of_files_out_of_reach_ends_the_run_after_the_rows_before(tmp_path: Path) -> None:
    def choosy(row: Any) -> dict[str, Any]:
        if row.number == 9:
            raise TimeoutError(errno.ETIMEDOUT, "timed out")
        return build(row)

    night = Night(tmp_path)
    error = await night.run(table(*map(str, range(20))), question(build=choosy))
    assert error is not None
    assert error.retryable
    assert "A file that row 9 of the source names cannot be read" in str(error)
    assert len(night.rows) == len(night.segmind.jobs) == 9


@pytest.mark.parametrize("value", [ValueError("secret"), RecursionError(), TypeError("secret"), OverflowError()])
async def test_a_row_that_cannot_be_written_into_a_question_is_skipped(tmp_path: Path, value: Exception) -> None:
    def choosy(row: Any) -> dict[str, Any]:
        if row.number == 0:
            raise value
        return build(row)

    night = Night(tmp_path)
    assert await night.run(table("a", "b"), question(build=choosy)) is None
    assert [row["_segmind_status"] for row in night.rows] == ["skipped", "success"]
    assert type(value).__name__ in night.rows[0]["_segmind_error"]
    assert "secret" not in night.rows[0]["_segmind_error"]


async def test_a_column_that_only_later_rows_have_is_a_column(tmp_path: Path) -> None:
    night = Night(tmp_path)
    asked = question(
        build=lambda row: {"prompt": row.fill("Greet {first-name} {3}.")}, placeholders=frozenset({"first-name", "3"})
    )
    rows: list[dict[str, Any]] = [
        {"id": 1, "x": 1},
        {"id": 2, "first-name": "Ann", "3": "c"},
        {"id": 3, "first-name": "Bo"},
    ]
    assert await night.run(rows, asked) is None
    assert [row["_segmind_status"] for row in night.rows] == ["skipped", "success", "skipped"]
    assert [job.body["prompt"] for job in night.segmind.jobs.values()] == ["Greet Ann c."]
    assert "no column 'first-name'" in night.rows[0]["_segmind_error"]
    assert "no column '3'" in night.rows[2]["_segmind_error"]


ODD_NAMES = ["price ($)", "a/b", "customer's name", "2024", "नाम", "pre\u0301nom", "e-mail (work)", "what?", "3"]


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 2, 1)])
async def test_a_row_without_a_sparse_column_is_skipped_wherever_it_is(
    tmp_path: Path, name: str, order: tuple[int, ...]
) -> None:
    night = Night(tmp_path)
    prompt = f'Cost {{{name}}} {{x}}, as {{"a": {{"b": 1}}}} or {{1, 2}}.'
    asked = question(build=lambda row: {"prompt": row.fill(prompt)}, placeholders=placeholders(prompt))
    rows: list[dict[str, Any]] = [{"id": 0, "x": "a"}, {"id": 1, "x": "b", name: "5"}, {"id": 2, "x": "c"}]
    assert await night.run([rows[number] for number in order], asked) is None
    assert {row["id"]: row["_segmind_status"] for row in night.rows} == {0: "skipped", 1: "success", 2: "skipped"}
    assert [job.body["prompt"] for job in night.segmind.jobs.values()] == ['Cost 5 b, as {"a": {"b": 1}} or {1, 2}.']
    assert all(repr(name) in row["_segmind_error"] for row in night.rows if row["id"] != 1)


async def test_a_column_that_is_first_met_late_is_a_column_of_all_later_rows(tmp_path: Path) -> None:
    night = Night(tmp_path)
    asked = question(build=lambda row: {"prompt": row.fill("{id} {a/b}")}, placeholders=frozenset({"id", "a/b"}))
    rows: list[dict[str, Any]] = [{"id": number} for number in range(FIRST_ROWS + 3)]
    rows[-2]["a/b"] = "x"
    assert await night.run(rows, asked) is None
    assert [row["_segmind_status"] for row in night.rows[-3:]] == ["success", "success", "skipped"]
    assert f"{FIRST_ROWS + 1} x" in {job.body["prompt"] for job in night.segmind.jobs.values()}


@pytest.mark.parametrize("prompt", ["{id} {1, 2}", "{id} {price ($)}", "{id}"])
async def test_rows_before_a_broken_one_are_asked_while_a_column_is_sought(tmp_path: Path, prompt: str) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from table("a", "b")
        raise SegmindEnrichmentError("line 3 is torn", retryable=False)

    night = Night(tmp_path)
    asked = question(build=lambda row: {"prompt": row.fill(prompt)}, placeholders=placeholders(prompt))
    with pytest.raises(SegmindEnrichmentError, match=r"after 2 rows.*line 3 is torn"):
        raise await night.run(broken(), asked) or AssertionError
    assert night.segmind.posts == 2


@pytest.mark.parametrize("prompt", ["{id} {name}", "{1, 2}"])
async def test_a_source_that_breaks_before_a_column_was_found_says_so_unpaid(tmp_path: Path, prompt: str) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield from table("a", "b")
        raise SegmindEnrichmentError("line 3 is torn", retryable=False)

    night = Night(tmp_path)
    asked = question(build=lambda row: {"prompt": row.fill(prompt)}, placeholders=placeholders(prompt))
    with pytest.raises(SegmindError, match="line 3 is torn"):
        raise await night.run(broken(), asked) or AssertionError
    assert not night.segmind.posts


@pytest.mark.parametrize(
    ("placeholders", "words"),
    [
        ({"name"}, "no column 'name', which a placeholder names.*Its columns are: id, text"),
        ({"text", "first-name"}, "no column 'first-name'"),
        ({"3"}, "No {column} placeholder names a column"),
    ],
)
async def test_a_placeholder_without_a_column_is_refused_unpaid(
    tmp_path: Path, placeholders: set[str], words: str
) -> None:
    night = Night(tmp_path)
    with pytest.raises(SegmindConfigError, match=words):
        raise await night.run(table("a", "b"), question(placeholders=frozenset(placeholders))) or AssertionError
    assert not night.segmind.posts
