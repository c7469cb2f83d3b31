"""A peer that fails is reported as failed, and the rest is measured."""

from __future__ import annotations

import pytest

from benchmarks import processes, rows
from benchmarks.measure import versus
from benchmarks.processes import AIOHTTP, Figures, JobFailedError


def test_a_job_that_ends_without_figures_is_a_failure_of_its_peer_alone(capfd: pytest.CaptureFixture[str]) -> None:
    job = {"name": "a peer that does not exist", "folder": "", "url": "", "rows": 0}
    assert processes.of_peer(lambda: processes.figures_of("rows", job)) is None
    assert "A peer failed" in capfd.readouterr().err
    with pytest.raises(JobFailedError):
        processes.figures_of("rows", job)


def test_an_error_of_our_own_is_not_taken_for_one_of_the_peer() -> None:
    def broken() -> Figures:
        raise KeyError("figure")

    with pytest.raises(KeyError):
        processes.of_peer(broken)


def test_a_run_without_the_peer_is_left_out_of_the_ratio() -> None:
    measure = versus("CPU", AIOHTTP, [(2.0, 4.0), (9.0, None), (2.0, 4.0)], unit="s", goal=0.75)
    assert (measure.ours, measure.peer, measure.ratio, measure.held) == (2.0, 4.0, 0.5, True)


def test_a_goal_beside_a_peer_that_always_fails_is_unknown() -> None:
    measure = versus("CPU", AIOHTTP, [(2.0, None), (4.0, None)], unit="s", goal=0.75)
    assert measure.held is None
    assert str(measure) == "| CPU | [aiohttp] | 3 s | failed |  | ≤ 0.75 | unknown |"


def test_the_rest_of_the_speeds_is_measured_although_the_sdk_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def answered(number: int, *, install: str = AIOHTTP, by: str = "") -> Figures:
        if by == rows.row_peers.SDK:
            raise JobFailedError("a read timeout")
        return {"cpu": 1.0, "seconds": 1.0, "calls": 2.0}

    monkeypatch.setattr(rows, "answered", answered)
    held = [(measure.name, measure.held) for measure in rows.speed(rows.Size(rows=10, peer_rows=2, turns=1))]
    sdk = [value for name, value in held if rows.row_peers.SDK in name]
    assert sdk == [None] * 4
    assert [value for name, value in held if rows.row_peers.SDK not in name] == [True] * 4
