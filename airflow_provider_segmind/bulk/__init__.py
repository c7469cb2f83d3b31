"""Rows in, rows out, a ledger between: each distinct row is paid for once. Knows nothing of Airflow."""
