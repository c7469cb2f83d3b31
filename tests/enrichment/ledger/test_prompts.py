"""The prompts of a ledger: each kept once, found by the run and time of a row."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.ledger.prompts import keep_prompt, prompt_hash_of, prompt_of
from airflow_provider_segmind.enrichment.rows import Row
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from tests.enrichment.test_engine import World
from tests.support.enrichment import question, table
from tests.support.object_stores import ObjectStore

PLAIN = {"template": {"prompt": "Say {text}"}, "schema": None, "options": None}
LOUD = {"template": {"prompt": "Shout {text}, h\u00f6flich \ud83d"}, "schema": {"type": "string"}, "options": None}


def kept_in(store: ObjectStore) -> list[str]:
    return sorted(name.removeprefix("bucket/ledger/prompts/") for name in store.objects if "/prompts/" in name)


@pytest.mark.parametrize("prompt", [PLAIN, LOUD])
def test_a_prompt_is_read_back_by_its_hash(prompt: dict[str, Any]) -> None:
    store = ObjectStore()
    ledger = store.path("bucket/ledger")
    keep_prompt(ledger, prompt, run="a run", at=100.0)

    found = prompt_hash_of(ledger, run="a run", at=101.0)
    assert found is not None
    assert prompt_of(ledger, found) == prompt
    assert hashlib.sha256(store.objects[f"bucket/ledger/prompts/{found}.json"]).hexdigest() == found


def test_the_time_tells_which_of_the_prompts_of_a_run_it_was() -> None:
    ledger = ObjectStore().path("bucket/ledger")
    for at, prompt in ((100.0, PLAIN), (150.0, PLAIN), (200.0, LOUD), (300.0, PLAIN)):
        keep_prompt(ledger, prompt, run="a run", at=at)
    keep_prompt(ledger, LOUD, run="another run", at=100.0)

    def asked(run: str, at: float) -> Any:
        found = prompt_hash_of(ledger, run=run, at=at)
        return found and prompt_of(ledger, found)

    times = (100.0, 199.0, 200.0, 299.0, 301.0)
    assert [asked("a run", at) for at in times] == [PLAIN, PLAIN, LOUD, LOUD, PLAIN]
    assert asked("a run", 99.0) == PLAIN
    assert (asked("another run", 500.0), asked("no run", 500.0)) == (LOUD, None)


def test_a_prompt_is_written_once_for_all_runs_and_once_for_each_run() -> None:
    store = ObjectStore()
    ledger = store.path("bucket/ledger")
    for number in range(3):
        for _ in range(3):
            keep_prompt(ledger, PLAIN, run=f"run {number}", at=100.0 + number)

    names = kept_in(store)
    assert len([name for name in names if not name.startswith("runs/")]) == 1
    assert len([name for name in names if name.startswith("runs/")]) == 3


def test_a_prompt_that_was_changed_is_not_taken_for_the_one_that_was_asked() -> None:
    store = ObjectStore()
    ledger = store.path("bucket/ledger")
    keep_prompt(ledger, PLAIN, run="a run", at=100.0)
    found = str(prompt_hash_of(ledger, run="a run", at=100.0))
    store.objects[f"bucket/ledger/prompts/{found}.json"] = b"{}"

    with pytest.raises(SegmindEnrichmentError, match="the prompt was changed"):
        prompt_of(ledger, found)
    assert prompt_of(ledger, "0" * 64) is None


async def test_a_row_of_a_ledger_leads_to_its_prompt() -> None:
    world = World()
    first, second = question(template={"prompt": "Say {text}"}), question(template={"prompt": "{text}!"}, options=1)
    await world.run(table("a"), first)
    world.clock.now += 60
    await world.run(table("a"), second)

    folder = world.store.path("bucket/ledger")
    ledger = Ledger(folder, run="", writer="reader")
    ledger.replay()
    for asked in (first, second):
        event = ledger.finished(asked.prepare(Row(0, {"id": 0, "text": "a"})).fingerprint)
        assert event is not None
        found = prompt_hash_of(folder, run=event.run, at=event.at)
        assert found == asked.prompt_hash
        assert prompt_of(folder, found) == asked.prompt
    ledger.close()


async def test_no_prompt_is_kept_when_it_must_not_be() -> None:
    world = World()
    asked = question(template={"prompt": "Say {text}"})
    stored = await world.run(table("a"), asked, settings={"keep_prompt": False})

    assert kept_in(world.store) == []
    assert stored.manifest.prompt_hash == asked.prompt_hash


async def test_a_prompt_that_cannot_be_kept_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("airflow_provider_segmind.enrichment.engine.keep_prompt", refuse)
    stored = await World().run(table("a"), question(template={"prompt": "Say {text}"}))

    assert stored.statuses == ["success"]
    assert "The prompt could not be stored in the ledger: PermissionError: read-only" in caplog.text
