"""Segmind over HTTP; no Airflow."""
