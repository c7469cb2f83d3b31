"""A real Airflow, started for one purpose and gone afterwards; ``python -m demo`` shows the provider on it."""
