"""Rows in, rows out, and a ledger between; no Airflow."""
