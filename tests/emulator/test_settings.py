"""The settings of the emulated service."""

from __future__ import annotations

import pytest

from airflow_provider_segmind.emulator import SegmindEmulator


def test_settings_are_checked_by_name_and_choice():
    with pytest.raises(ValueError, match="lattency"):
        SegmindEmulator(lattency=3)
    with SegmindEmulator() as emulator:
        for wrong in ({"output_mode": "x"}, {"reset_format": "x"}, {"prefix": "/p"}, {"latency": "x"}):
            with pytest.raises(ValueError, match=next(iter(wrong))):
                emulator.settings(**wrong)
