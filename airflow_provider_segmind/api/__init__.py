"""The Segmind client. Knows nothing of Airflow."""
