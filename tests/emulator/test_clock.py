"""Emulated time."""

from __future__ import annotations

import time

import pytest

from airflow_provider_segmind.emulator.clock import EmulatorClock


@pytest.mark.parametrize("source", [time.time, lambda: 5.0])
def test_the_clock_scales_and_only_moves_forward(source):
    clock = EmulatorClock(source, scale=60)
    before = clock.now()

    assert clock.advance(10) >= before + 10
    clock.rescale(1)
    assert clock.now() == pytest.approx(before + 10, abs=1)
    with pytest.raises(ValueError, match="forward"):
        clock.advance(-1)
    with pytest.raises(ValueError, match="positive"):
        clock.rescale(0)
