"""Apache Airflow provider for Segmind: submit, wait without a worker slot, store the result, and pay once."""

__version__ = "0.1.0"
