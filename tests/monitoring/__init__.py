"""Tests of airflow_provider_segmind.monitoring."""
