"""``python -m airflow_provider_segmind``: the command on every version of Airflow. Short because it only calls it."""

from __future__ import annotations

from airflow_provider_segmind.monitoring.cli import main

if __name__ == "__main__":
    main()
