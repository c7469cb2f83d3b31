"""Metrics and traces of requests, sent through Airflow."""
