"""The operators of a request: submit it, fetch its result, or do all three steps in one task."""

from __future__ import annotations

from airflow_provider_segmind.operators.result import SegmindResultOperator
from airflow_provider_segmind.operators.run import SegmindRunOperator
from airflow_provider_segmind.operators.submit import SegmindSubmitOperator

__all__ = ["SegmindResultOperator", "SegmindRunOperator", "SegmindSubmitOperator"]
