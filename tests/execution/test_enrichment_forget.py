"""One person's rows are forgotten everywhere, a search proves it, and no other row is paid for again."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_segmind.answer_cache import AnswerCache
from airflow_provider_segmind.emulator import SegmindEmulator
from airflow_provider_segmind.enrichment import forget
from airflow_provider_segmind.enrichment.files import removal
from airflow_provider_segmind.enrichment.files.readers import open_source
from airflow_provider_segmind.enrichment.forget import Forgetting, Places, Trace
from airflow_provider_segmind.enrichment.ledger.events import Claimed, from_line, to_line
from airflow_provider_segmind.enrichment.ledger.ledger import Ledger
from airflow_provider_segmind.enrichment.ledger.run_liveness import Membership
from airflow_provider_segmind.enrichment.ledger.segments import read_segment, segment_names, write_segment
from airflow_provider_segmind.enrichment.settings import Shard
from airflow_provider_segmind.exceptions import SegmindEnrichmentError
from tests.support.airflow_fakes import Run
from tests.support.table_tasks import Table

TIMEOUT = 60.0
ROWS = [
    {"customer": 7, "ticket": 1, "thing": "sky"},
    {"customer": 7, "ticket": 2, "thing": "blood"},
    {"customer": 8, "ticket": 1, "thing": "rose"},
    {"customer": 77, "ticket": 1, "thing": "lime"},
]


class Killed(BaseException):
    """The process died."""


class Time:
    """A monotonic clock that only sleeping moves."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class World:
    """A table of two runs with a report and an answer cache, which a test may copy."""

    def __init__(self, folder: Path, suffix: str = ".jsonl") -> None:
        self.folder = folder
        self.output = folder / "out" / f"colours{suffix}"
        self.ledger = folder / "out" / "_segmind_ledger"
        self.answers = folder / "answers"
        self.time = Time()

    def ask(self, emulator: SegmindEmulator, run: str, **fields: Any) -> Any:
        table = Table(self.folder, emulator)
        table.output = self.output
        table.run = Run(run_id=run)
        given = {"key": ["customer", "ticket"], "max_failed_rows": None, "max_repairs": 0}
        given |= {"reuse_answers": "always", "answers_path": str(self.answers)}
        return table.ask(source=ROWS, **{**given, **fields})

    @property
    def places(self) -> Places:
        stem = self.output.parent / "colours"
        return Places(
            ledgers=[self.ledger],
            outputs=[self.output],
            dead_letters=[Path(f"{stem}.dead_letters.jsonl")],
            reports=[Path(f"{stem}.report.html")],
            answer_path=AnswerCache(self.answers).path,
        )

    def rows(self, **key: Any) -> Forgetting:
        return Forgetting(self.places, partial(has, key))

    def remove(self, rows: Forgetting) -> None:
        rows.remove(writer_timeout=TIMEOUT, monotonic=self.time.monotonic, sleep=self.time.sleep)

    def fingerprints(self) -> set[str]:
        names = segment_names(self.ledger)
        lines = [line for name in names for line in read_segment(self.ledger, name) or ()]
        return {from_line(line).fingerprint.hex() for line in lines}

    def copy(self, folder: Path) -> World:
        shutil.copytree(self.folder, folder)
        return World(folder, self.output.suffix)


def totals(traces: list[Trace]) -> Counter[str]:
    """Add up what was found, by what it is."""
    counts: Counter[str] = Counter()
    for trace in traces:
        counts[trace.what] += trace.count
    return counts


def has(key: dict[str, Any], columns: Any) -> bool:
    return all(str(columns.get(name)) == str(value) for name, value in key.items())


Make = Callable[..., World]


@pytest.fixture
def make(tmp_path: Path, segmind_emulator: SegmindEmulator) -> Make:
    def made(suffix: str = ".jsonl") -> World:
        world = World(tmp_path / f"world{suffix}", suffix)
        world.folder.mkdir()
        segmind_emulator.script(match="blood", block="SAFETY", times=None)
        world.ask(segmind_emulator, "monday")
        world.ask(segmind_emulator, "tuesday", prompt="Which colour has {thing}?")
        world.ask(segmind_emulator, "wednesday")
        return world

    return made


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_every_trace_of_a_person_is_removed_and_others_are_not_paid_again(
    suffix: str, make: Make, segmind_emulator: SegmindEmulator
) -> None:
    world = make(suffix)
    before = list(open_source(world.output))
    paid = len(segmind_emulator.posts())
    rows = world.rows(customer=7)

    found = totals(rows.search())
    assert found["output"] == 2
    assert found["dead letters"] == found["report"] == 1
    assert found["answer"] == 1
    assert found["ledger"] >= 4
    assert list(open_source(world.output)) == before

    world.remove(rows)

    assert rows.search() == []
    assert world.rows(customer=7).search() == []
    left = [row for row in before if str(row["customer"]) != "7"]
    assert list(open_source(world.output)) == left
    content = "".join(path.read_text(errors="replace") for path in world.folder.rglob("*") if path.is_file())
    for mark in (*rows.marks.fingerprints, *rows.marks.request_ids):
        assert mark not in content
    world.ask(segmind_emulator, "thursday")
    # The two rows of the person, and nobody else's.
    assert len(segmind_emulator.posts()) == paid + 2


def test_rows_are_found_by_all_their_key_columns_a_request_id_or_a_fingerprint(make: Make) -> None:
    world = make()
    one = world.rows(customer=7, ticket=1)
    assert len(one.marks.fingerprints) == 1
    (mark,), (request_id, *_) = one.marks.fingerprints, sorted(one.marks.request_ids)
    assert totals(one.search())["output"] == 1

    for given in (mark, request_id):
        rows = Forgetting(world.places, lambda _: False, given=frozenset({given}))
        assert rows.marks.fingerprints == {mark}
        assert totals(rows.search())["answer"] == 1
    nothing = Forgetting(world.places, lambda _: False, given=frozenset({"7"}))
    assert nothing.search() == []


def test_a_process_killed_anywhere_is_finished_by_the_next_call(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make()
    left = 0

    def killing(work: Any) -> Any:
        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            done = work(*args, **kwargs)
            left -= 1
            if left == 0:
                raise Killed
            return done

        return step

    marks = world.rows(customer=7).marks.fingerprints
    # A segment that names no request: once the others are gone, nothing leads to it from a key.
    claims = [
        Claimed(
            fingerprint=bytes.fromhex(mark), attempt=1, at=1.0, run="r", writer="w", model="m", body="b", id=f"w.{mark}"
        )
        for mark in marks
    ]
    write_segment(world.ledger, "99999999999999-w-000000.jsonl", [to_line(claim) for claim in claims])
    expected = world.fingerprints() - marks
    killed = 0
    for number in range(1, 200):
        copied = world.copy(tmp_path / f"copy{number}")
        rows, left = copied.rows(customer=7), number
        with monkeypatch.context() as dying:
            dying.setattr(Path, "unlink", killing(Path.unlink))
            dying.setattr(forget, "write_segment", killing(forget.write_segment))
            dying.setattr(forget, "write_whole", killing(forget.write_whole))
            dying.setattr(removal, "open_sink", killing(removal.open_sink))
            try:
                copied.remove(rows)
            except Killed:
                killed += 1
            else:
                break
        again = copied.rows(customer=7)
        copied.remove(again)
        assert again.search() == []
        assert copied.fingerprints() == expected
        assert [row["customer"] for row in open_source(copied.output)] == [8, 77]
    assert killed > 15


def test_nothing_is_removed_while_a_run_works_on_the_ledger(make: Make) -> None:
    world = make()
    member = Membership(
        world.ledger, writer="working", shard=Shard(), writer_timeout=TIMEOUT, clock=world.time.monotonic
    )
    member.register()
    rows = world.rows(customer=7)
    before = rows.search()

    def sleep(seconds: float) -> None:
        world.time.sleep(seconds)
        member.beat()

    with pytest.raises(SegmindEnrichmentError, match=r"A run is using the ledger.*Nothing was removed"):
        rows.remove(writer_timeout=TIMEOUT, monotonic=world.time.monotonic, sleep=sleep)
    assert rows.search() == before


def test_a_killed_run_is_waited_for_until_it_counts_as_dead_and_its_segments_are_searched(
    make: Make, segmind_emulator: SegmindEmulator
) -> None:
    world = make()
    (name, *_) = [one for one in segment_names(world.ledger) if read_segment(world.ledger, one)]
    killed = Membership(world.ledger, writer="killed", shard=Shard(), writer_timeout=TIMEOUT, clock=lambda: 1.0)
    killed.register()
    lines = read_segment(world.ledger, name) or []
    killed.write("00000000000001-killed-000000.jsonl", 0, lines, ())
    rows = world.rows(customer=7)

    world.remove(rows)

    assert rows.search() == []
    assert segment_names(world.ledger / "live") == []
    assert world.time.now - 1000.0 >= TIMEOUT


def test_a_row_whose_request_may_be_in_flight_is_not_forgotten(make: Make) -> None:
    world = make()
    rows = world.rows(customer=7, ticket=2)
    (mark, *_) = rows.marks.fingerprints
    ledger = Ledger(world.ledger, run="r", writer="w")
    ledger.replay()
    attempt = ledger.row_state(bytes.fromhex(mark)).attempt + 1
    ledger.append(
        Claimed(
            fingerprint=bytes.fromhex(mark), attempt=attempt, at=1.0, run="r", writer="w", model="m", body="b", id="w.0"
        )
    )
    ledger.commit()
    ledger.close()
    before = rows.search()

    with pytest.raises(SegmindEnrichmentError, match=r"in flight or billed.*Nothing was removed"):
        world.remove(rows)
    assert rows.search() == before


def test_what_is_being_removed_is_noted_without_a_key(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make()
    rows = world.rows(customer=7)

    def die(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(Forgetting, "_remove", die)
    with pytest.raises(Killed):
        world.remove(rows)

    (noted,) = (world.ledger / "forgetting").iterdir()
    assert set(json.loads(noted.read_text())) == {"fingerprints", "request_ids", "at"}
