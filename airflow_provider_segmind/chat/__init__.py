"""Requests to chat models and their replies; no HTTP, no Airflow."""
