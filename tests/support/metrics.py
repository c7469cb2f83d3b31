"""Metrics of Airflow, recorded."""

from __future__ import annotations


class Stats:
    """Records what it is told."""

    def __init__(self) -> None:
        self.counted: list[tuple[str, float]] = []
        self.gauges: list[tuple[str, float]] = []
        self.tags: list[dict[str, str]] = []
        self.error: Exception | None = None

    def incr(self, name: str, count: float, *, tags: dict[str, str]) -> None:
        if self.error is not None:
            raise self.error
        self.counted.append((name, count))
        self.tags.append(tags)

    def gauge(self, name: str, value: float, *, tags: dict[str, str]) -> None:
        self.gauges.append((name, value))
        self.tags.append(tags)
