"""What chat models are asked and what they answer; no HTTP, no Airflow."""
