"""The answer cache: one read to find an answer, one write to keep it, and what a broken file or store means."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.io import ObjectStoragePath, attach
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_segmind.answer_cache import Answer, AnswerCache, question_fingerprint
from airflow_provider_segmind.client.models import RequestResult
from airflow_provider_segmind.client.submission import ResultManifest
from airflow_provider_segmind.enrichment.question import Question
from airflow_provider_segmind.enrichment.rows import Row
from airflow_provider_segmind.exceptions import SegmindStateError

MODEL = "gpt-5.4-mini"
INPUTS = {"messages": [{"role": "user", "content": "Größe?"}], "temperature": 0.2}
NOW = 1_795_694_400.0
CALLS = ("cat_file", "pipe_file", "_open", "info", "ls", "mkdir", "makedirs", "rm_file", "mv", "created")


def question(text: str = "a") -> bytes:
    return question_fingerprint(MODEL, {"prompt": text})


def answer(text: str = "a", **fields: Any) -> Answer:
    result = RequestResult.model_validate({"request_id": "r-1", "status": "COMPLETED", "output": f"é {text}"})
    given = {"fingerprint": question(text), "model": MODEL, "at": NOW, "request_id": "r-1", "cost": 0.25}
    return Answer(**{**given, "body": result.encoded(), **fields})


def test_an_answer_is_found_as_it_was_kept(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "not" / "there")
    kept = answer(requests=2)

    assert cache.find(question()) is None
    cache.keep(kept)
    found = cache.find(question())

    assert found == kept
    assert found is not None
    assert found.result is not None
    assert found.result.output == "é a"
    assert cache.find(question("b")) is None


def test_files_are_found_by_their_manifest(tmp_path: Path) -> None:
    manifest = ResultManifest(request_id="r-1", uris=("s3://bucket/a.png", "s3://bucket/b.png"), size=7)
    kept = answer(body=b"", manifest=manifest)
    AnswerCache(tmp_path).keep(kept)

    assert AnswerCache(tmp_path).find(question()) == kept


def test_the_fingerprint_is_that_of_a_row_of_a_table() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}}

    def table(row: Row) -> Any:
        return INPUTS

    row = Question(model=MODEL, build=table, read=table, key=("id",), answer_columns=("x",), schema=schema).prepare(
        Row(3, {"id": 1})
    )

    assert question_fingerprint(MODEL, dict(reversed(INPUTS.items())), schema=schema) == row.fingerprint
    assert question_fingerprint(MODEL, INPUTS) != row.fingerprint
    assert question_fingerprint("another", INPUTS, schema=schema) != row.fingerprint
    assert question_fingerprint(MODEL, {**INPUTS, "temperature": 0.3}, schema=schema) != row.fingerprint


def test_an_object_store_is_asked_once_to_find_an_answer_and_once_to_keep_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach("memory", fs=MemoryFileSystem())
    root: Any = ObjectStoragePath(f"memory://answers-{tmp_path.name}/all")
    calls: list[str] = []
    inside = 0

    def counted(name: str, method: Any) -> Any:
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            # A call that the store makes to itself goes over no network.
            if not inside:
                calls.append(name)
            inside += 1
            try:
                return method(self, *args, **kwargs)
            finally:
                inside -= 1

        return call

    for name in CALLS:
        monkeypatch.setattr(type(root.fs), name, counted(name, getattr(type(root.fs), name)))
    cache = AnswerCache(root)

    assert cache.find(question()) is None
    assert calls == ["cat_file"]
    calls.clear()
    cache.keep(answer())
    assert calls == ["pipe_file"]
    calls.clear()
    assert cache.find(question()) == answer()
    assert calls == ["cat_file"]


def test_finding_and_keeping_take_at_most_five_milliseconds_of_cpu_each(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    body = RequestResult.model_validate({"request_id": "r", "status": "COMPLETED", "output": "long " * 2000}).encoded()
    prompts = [f"{number} {'words ' * 500}" for number in range(50)]

    began = time.process_time()
    for prompt in prompts:
        cache.keep(answer(prompt, body=body))
    keeping = (time.process_time() - began) / len(prompts)
    began = time.process_time()
    for prompt in prompts:
        found = cache.find(question(prompt))
        assert found is not None
        assert found.result is not None
    finding = (time.process_time() - began) / len(prompts)

    assert keeping < 0.005
    assert finding < 0.005


def test_an_answer_is_used_up_to_an_age(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path, max_age=100.0, clock=lambda: NOW + 99.9)
    cache.keep(answer())

    assert cache.find(question()) is not None
    assert AnswerCache(tmp_path, max_age=100.0, clock=lambda: NOW + 100.0).find(question()) is None
    assert AnswerCache(tmp_path, max_age=0.0, clock=lambda: NOW).find(question()) is None


@pytest.mark.parametrize(
    "damage",
    [
        *(b"", b"{", b"[]", b"[" * 100_000, b'{"version": 1}\n', "cut", "body", "version", "moved"),
        *("endless", "undated", "countless"),
    ],
)
def test_a_damaged_file_is_no_answer_and_is_replaced(
    damage: bytes | str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = AnswerCache(tmp_path)
    cache.keep(answer())
    path: Any = cache.path(question())
    content = path.read_bytes()
    if damage == "moved":
        cache.keep(answer("other"))
        other: Any = cache.path(question("other"))
        damage = other.read_bytes()
    changed = {"cut": content[:-1], "body": content.replace(b" a", b" b")}
    changed["version"] = content.replace(b'"version":1', b'"version":2')
    changed["endless"] = content.replace(f'"at":{NOW}'.encode(), b'"at":1e999')
    changed["undated"] = content.replace(f'"at":{NOW}'.encode(), b'"at":NaN')
    changed["countless"] = content.replace(b'"requests":1', b'"requests":1e999')
    assert content not in changed.values()
    path.write_bytes(changed[damage] if isinstance(damage, str) else damage)

    assert cache.find(question()) is None
    assert "damaged" in caplog.text
    cache.keep(answer())
    assert cache.find(question()) == answer()


def test_a_memory_out_of_reach_is_not_an_empty_one(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    cache.path(question()).mkdir(parents=True)

    with pytest.raises(SegmindStateError, match=r"cannot be read.*nothing was sent.*reuse_answers") as caught:
        cache.find(question())
    assert caught.value.retryable


def test_all_answers_are_listed_with_their_time_damaged_ones_without(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "answers")
    assert list(cache.all()) == []
    for number in range(3):
        cache.keep(answer(str(number), at=NOW + number))
    broken: Any = cache.path(question("1"))
    broken.write_bytes(b"{")
    (tmp_path / "answers" / "notes").mkdir()
    (tmp_path / "answers" / "notes" / "a.json").write_text("not ours")
    for number, name in enumerate(("package.json", f"{'0' * 63}.json", f"{'f' * 64}.json", f".{'0' * 64}.json")):
        (tmp_path / "answers" / "00").mkdir(exist_ok=True)
        (tmp_path / "answers" / "00" / name).write_text(f"not ours {number}")

    found = {path.name: at for path, at in cache.all()}

    names = {number: cache.path(question(str(number))).name for number in range(3)}
    assert found == {names[0]: NOW, names[1]: None, names[2]: NOW + 2}


def test_the_file_of_an_answer_is_readable_json_without_the_question(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path)
    cache.keep(answer("canary"))
    path: Any = cache.path(question("canary"))

    about, body = path.read_text().split("\n", 1)

    assert json.loads(about)["request_id"] == json.loads(body)["request_id"] == "r-1"
    assert "prompt" not in about + body
