"""A real Airflow, started for a demonstration or a test and removed afterwards; ``python -m demo`` runs one."""
