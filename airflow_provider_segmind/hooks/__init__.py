"""Airflow Connection to Segmind client."""
