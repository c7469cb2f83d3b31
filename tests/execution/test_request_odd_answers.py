"""Answers that no store, reader or column takes as they came: files, databases and chat tasks deliver them all."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import AliasPath, BaseModel, Field, SecretStr, computed_field

from airflow_provider_segmind.compat import AirflowFailException
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.enrichment.files.readers import open_source
from airflow_provider_segmind.exceptions import SegmindReplyError
from tests.execution.test_sql_table import OneDatabase, Shop
from tests.support.chat_tasks import Chat
from tests.support.databases import database, postgres, postgres_server
from tests.support.table_tasks import Table

__all__ = ["database", "postgres", "postgres_server"]

DIGITS = "90071992547409.9301"


class Odd(BaseModel):
    team: str = Field(alias="teamName")
    word: SecretStr = Field(validation_alias="passWord")
    total: Decimal = Field(serialization_alias="sum")
    hidden: str = Field(exclude=True)
    first: str = Field(validation_alias=AliasPath("firsts", 0))

    @computed_field
    @property
    def shout(self) -> str:
        return self.team.upper()


TEXT = f'{{"teamName": "x", "passWord": "hunter2", "total": {DIGITS}, "hidden": "h", "firsts": ["f"]}}'
FILLED = {"teamName": "x", "passWord": "hunter2", "total": DIGITS, "hidden": "h", "first": "f", "shout": "X"}
LARGE = "123456789012345678901234567890"
DEEP = "[" * 400 + "]" * 400
HOSTILE = [
    f'{{"d": {"7" * 400}}}', f'{{"d": {"7" * 5000}}}', f'{{"d": {DEEP}}}', '{"d": ' + "[" * 5000 + "]" * 5000 + "}",
    '{"d": NaN}', '{"d": 1e999}',
]  # fmt: skip
ANY = {"type": "object", "properties": {"d": {}}, "required": ["d"]}


@pytest.fixture
def shop(
    tmp_path: Path, segmind_emulator: SegmindEmulator, database: OneDatabase, monkeypatch: pytest.MonkeyPatch
) -> Shop:
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", json.dumps(database.airflow))
    shop = Shop(tmp_path, segmind_emulator, database)
    shop.stock("rose")
    return shop


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.csv.gz", "out.parquet"])
def test_every_column_of_a_file_is_filled_whatever_the_class_calls_its_field(table: Table, name: str) -> None:
    table.emulator.script(text=TEXT)

    table.ask(source=[{"id": 1, "thing": "rose"}], output_type=Odd, output_path=str(table.folder / name))

    [row] = open_source(table.folder / name)
    assert {column: row[column] for column in FILLED} == FILLED
    assert table.posts == 1


def test_every_column_of_a_database_is_filled_whatever_the_class_calls_its_field(shop: Shop) -> None:
    shop.emulator.script(text=TEXT)

    shop.ask(output_type=Odd)

    names = ", ".join(f'"{name}"' for name in FILLED)
    assert shop.source.rows(f"SELECT {names} FROM answers") == [tuple(FILLED.values())]


def test_a_chat_task_returns_the_names_that_the_model_was_asked_for(chat: Chat) -> None:
    chat.emulator.script(text=TEXT)

    assert chat.ask(output_type=Odd) == FILLED


def test_what_a_model_wrote_while_it_thought_is_not_the_answer(chat: Chat) -> None:
    chat.emulator.script(text='<think>maybe {"x": 1}?</think>\n{"x": 2}')

    number = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    assert chat.ask(output_type=number) == {"x": 2}
    assert chat.posts == 1


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_an_answer_that_no_store_can_hold_is_invalid(chat: Chat, text: str) -> None:
    chat.emulator.script(text=text)

    with pytest.raises(AirflowFailException) as raised:
        chat.ask(output_type=ANY, max_repairs=0)

    error = raised.value.__context__
    assert isinstance(error, SegmindReplyError)
    assert error.reason == "invalid"
    assert chat.posts == 1


def test_a_table_with_answers_that_no_store_can_hold_is_written(table: Table) -> None:
    for number, text in enumerate(HOSTILE):
        table.emulator.script(text=text, match=f"bad{number}")
    table.emulator.script(text='{"d": "fine"}', match="rose")
    source = [{"id": number, "thing": f"bad{number}"} for number in range(len(HOSTILE))]

    manifest = table.ask(
        source=[*source, {"id": 99, "thing": "rose"}], output_type=ANY, max_repairs=0, max_failed_rows=1.0,
    )  # fmt: skip

    assert manifest["outcomes"]["invalid"] == len(HOSTILE)
    assert [row["d"] for row in table.rows if row["_segmind_status"] == "success"] == ["fine"]


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
def test_characters_that_stores_refuse_cost_no_answer_and_are_logged(table: Table, name: str, caplog: Any) -> None:
    table.emulator.script(text='{"d": "half \\ud83d pair, nul \\u0000"}')

    table.ask(source=[{"id": 1, "thing": "rose"}], output_type=ANY, output_path=str(table.folder / name))

    [row] = open_source(table.folder / name)
    assert row["d"] == "half \ufffd pair, nul \ufffd"
    assert "become U+FFFD" in caplog.text


@pytest.mark.parametrize("typed", [False, True])
def test_a_chat_answer_has_no_character_that_an_xcom_backend_refuses(chat: Chat, typed: bool) -> None:
    chat.emulator.script(text=json.dumps({"d": "a\x00b"}) if typed else "a\x00b")

    assert chat.ask(output_type=ANY if typed else None) == ({"d": "a\ufffdb"} if typed else "a\ufffdb")


def test_an_integer_beyond_64_bits_is_a_string_in_an_xcom(chat: Chat) -> None:
    chat.emulator.script(text=f'{{"d": {LARGE}}}')

    assert chat.ask(output_type=ANY) == {"d": LARGE}


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
def test_an_integer_beyond_64_bits_keeps_its_digits_in_a_file(table: Table, name: str) -> None:
    table.emulator.script(text=f'{{"d": {LARGE}}}')

    table.ask(source=[{"id": 1, "thing": "rose"}], output_type=ANY, output_path=str(table.folder / name))

    [row] = open_source(table.folder / name)
    assert str(row["d"]) == LARGE


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv", "out.parquet"])
@pytest.mark.parametrize("old", [f'{{"d": {"7" * 400}}}', f'{{"d": {DEEP}}}', '{"d": ' + "[" * 900 + "]" * 900 + "}"])
def test_a_ledger_that_already_has_such_an_answer_can_be_written_out(table: Table, name: str, old: str) -> None:
    from airflow_provider_segmind.enrichment.ledger import segments

    source = [{"id": 1, "thing": "rose"}]
    table.emulator.script(text='{"d": "MARK"}')
    table.ask(source=source, output_type=ANY)
    folder = table.output.parent / "_segmind_ledger"
    for path in [path for path in folder.rglob("*.jsonl") if b"MARK" in path.read_bytes()]:
        lines = segments.read_segment(path.parent, path.name) or []
        changed = [line.replace(b'{"d":"MARK"}', old.encode()) for line in lines]
        assert changed != lines
        segments.write_segment(path.parent, path.name, changed)

    table.ask(source=source, output_type=ANY, output_path=str(table.folder / "out" / name))

    [row] = open_source(table.folder / "out" / name)
    assert row["d"] == old[6:-1]
    assert table.posts == 1
