"""The description of this provider for Airflow. Imports nothing: it runs in every Airflow process."""

from __future__ import annotations

from typing import Any

_NUMBER = {"type": ["number", "null"], "exclusiveMinimum": 0}
_TEXT = {"type": ["string", "null"]}
_URL = {"type": ["string", "null"], "format": "url"}
CONNECTION_FIELDS: dict[str, dict[str, Any]] = {
    "requests_per_minute": {
        "label": "Requests per minute",
        "description": "The account's limit. Empty: learned from Segmind's responses.",
        "schema": _NUMBER,
    },
    "model": {
        "label": "Default model",
        "description": "Used by tasks without a model, for example gemini-3.1-flash-lite.",
        "schema": _TEXT,
    },
    "request_timeout": {
        "label": "Request timeout (s)",
        "description": "Seconds that one HTTP call may take. Empty: 60.",
        "schema": _NUMBER,
    },
    "output_path": {
        "label": "Output path",
        "description": "Folder on object storage for results too large for XCom. Empty: [segmind] output_path.",
        "schema": _TEXT,
    },
    "daily_budget": {
        "label": "Daily budget (USD)",
        "description": "The most that all tasks of this connection may spend in a day. Empty: no limit.",
        "schema": _TEXT,
    },
    "monthly_budget": {
        "label": "Monthly budget (USD)",
        "description": "The most that all tasks of this connection may spend in a month. Empty: no limit.",
        "schema": _TEXT,
    },
    "budget_timezone": {
        "label": "Timezone of the budgets",
        "description": "Days and months begin at midnight in this timezone, for example Europe/Berlin. Empty: UTC.",
        "schema": _TEXT,
    },
    "max_paid_in_flight": {
        "label": "Paid requests in flight",
        "description": "Maximum at the same time, across all tasks of this connection. Empty: no limit.",
        "schema": _NUMBER,
    },
    "storage_url": {
        "label": "Storage URL",
        "description": "Base URL for uploads, if they go through a proxy or the emulator.",
        "schema": _URL,
    },
    "history_url": {
        "label": "History URL",
        "description": "Base URL of the request history, if it goes through a proxy or the emulator.",
        "schema": _URL,
    },
    "models_url": {
        "label": "Models URL",
        "description": "Base URL of the model list, if it goes through a proxy or the emulator.",
        "schema": _URL,
    },
}
"""The extra fields of the connection; the form of every Airflow version is built from this table."""
FIELD_BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": ["schema", "login", "port"],
    "relabeling": {"password": "API Key", "host": "Base URL"},
    "placeholders": {
        "password": "empty: the environment variable SEGMIND_API_KEY",
        "host": "https://api.segmind.com",
        "requests_per_minute": "60",
        "model": "gemini-3.1-flash-lite",
        "request_timeout": "60",
        "output_path": "s3://aws_default@my-bucket/segmind-results",
        "daily_budget": "5.00",
        "monthly_budget": "100.00",
        "budget_timezone": "UTC",
        "max_paid_in_flight": "100",
        "storage_url": "https://workflows-api.segmind.com",
        "history_url": "https://api.spotprod.segmind.com",
        "models_url": "https://api.spotprod.segmind.com",
    },
}


def get_provider_info() -> dict[str, Any]:
    """
    Describe this package to Airflow.

    ``package-name`` must be the canonical name of the distribution: another spelling breaks the provider list of the
    whole deployment. Keys that an older Airflow does not know are ignored there.
    """
    return {
        "package-name": "airflow-provider-segmind",
        "name": "Segmind",
        "description": "Run the models of Segmind (https://www.segmind.com) and pay once for each task.",
        "integrations": [
            {
                "integration-name": "Segmind",
                "external-doc-url": "https://docs.segmind.com",
                "tags": ["service"],
            }
        ],
        "connection-types": [
            {
                "connection-type": "segmind",
                "hook-class-name": "airflow_provider_segmind.hooks.segmind.SegmindHook",
                "hook-name": "Segmind",
                "ui-field-behaviour": FIELD_BEHAVIOUR,
                "conn-fields": CONNECTION_FIELDS,
            }
        ],
        "hooks": [{"integration-name": "Segmind", "python-modules": ["airflow_provider_segmind.hooks.segmind"]}],
        "operators": [
            {
                "integration-name": "Segmind",
                "python-modules": [
                    "airflow_provider_segmind.operators.request",
                    "airflow_provider_segmind.operators.chat",
                    "airflow_provider_segmind.operators.enrich",
                ],
            }
        ],
        "sensors": [{"integration-name": "Segmind", "python-modules": ["airflow_provider_segmind.sensors.request"]}],
        "triggers": [
            {
                "integration-name": "Segmind",
                "python-modules": [
                    "airflow_provider_segmind.triggers.request",
                    "airflow_provider_segmind.triggers.spending",
                ],
            }
        ],
        "task-decorators": [{"name": "segmind", "class-name": "airflow_provider_segmind.decorators.chat.segmind_task"}],
        "extra-links": [
            "airflow_provider_segmind.links.SegmindModelLink",
            "airflow_provider_segmind.links.SegmindOutputLink",
        ],
        "cli": ["airflow_provider_segmind.monitoring.cli.get_commands"],
        "config": {
            "segmind": {
                "description": "Defaults of the Segmind provider.",
                "options": {
                    "state_path": {
                        "description": (
                            "Folder on object storage where tasks without a state_path record what they have "
                            "submitted, so that a retry finds it. Empty: Airflow's task state store is used if "
                            "available (3.3), else Airflow Variables; a copy is kept under an output_path."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "s3://aws_default@my-bucket/segmind-state",
                        "default": "",
                    },
                    "output_path": {
                        "description": (
                            "Folder on object storage for results that are too large for XCom, of tasks without an "
                            "output_path; the output_path of a connection takes precedence. Records of requests are "
                            "kept there as well. Empty: such results go into XCom in full."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "s3://aws_default@my-bucket/segmind-results",
                        "default": "",
                    },
                    "answers_path": {
                        "description": (
                            "Folder on object storage where tasks with reuse_answers store answers that were paid for, "
                            "one small file each, and look them up. A task's own answers_path takes precedence. Empty: "
                            "such a task needs its own."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "s3://aws_default@my-bucket/segmind-answers",
                        "default": "",
                    },
                    "spend_path": {
                        "description": (
                            "Folder on object storage for the spend record: one entry for each finished request, "
                            "in files of JSON lines, a folder for each day. Empty: nothing is recorded."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "s3://aws_default@my-bucket/segmind-spend",
                        "default": "",
                    },
                    "spend_conn_id": {
                        "description": (
                            "Connection of a database whose table segmind_spend is the spend record, instead of "
                            "spend_path. The table is created with the first entry."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "my_postgres",
                        "default": "",
                    },
                    "budgets": {
                        "description": (
                            "Named budgets that tasks may use, as JSON: limits in USD per day, per month or both, and "
                            "the timezone in which days and months begin. They need spend_conn_id or budget_redis_url."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": '{"team-a": {"daily": 5, "monthly": 100, "timezone": "Europe/Berlin"}}',
                        "default": "",
                    },
                    "budget_redis_url": {
                        "description": (
                            "Redis that keeps the budgets, even if spend_conn_id is set. It must not evict keys."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "sensitive": True,
                        "example": "redis://redis:6379/0",
                        "default": "",
                    },
                    "variable_retention_days": {
                        "description": (
                            "Days after which a Variable that records a request is deleted, when this or another task "
                            "submits; clearing a task of that age pays again unless it has an output_path. 0 keeps "
                            "them. Only tasks without state_path use Variables, and only before Airflow 3.3."
                        ),
                        "version_added": "0.1.0",
                        "type": "integer",
                        "example": "90",
                        "default": "30",
                    },
                    "writer_timeout": {
                        "description": (
                            "Seconds without a heartbeat after which other runs on the same ledger consider a run "
                            "dead and recover its requests. A longer time makes retries wait longer for the rows of a "
                            "lost worker, but a store with slow listings needs it. All runs on one ledger need the "
                            "same value."
                        ),
                        "version_added": "0.1.0",
                        "type": "float",
                        "example": "120",
                        "default": "60",
                    },
                    "page_paths": {
                        "description": (
                            "Folders, separated by commas, from which the page in Airflow's UI may read the rows "
                            "without an answer, besides output_path. Set it where the API server runs. Local paths or "
                            "URIs as tasks write them, with the Connection in them."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "s3://aws_default@my-bucket/enriched, /data/enriched",
                        "default": "",
                    },
                    "mask_prompts": {
                        "description": (
                            "Keep prompts out of the rendered fields that Airflow stores and shows: prompt, system, "
                            "messages, inputs, and the arguments of a @task.segmind function; for tables also out "
                            "of the ledger. A task's own mask_prompts takes precedence."
                        ),
                        "version_added": "0.1.0",
                        "type": "boolean",
                        "example": "True",
                        "default": "False",
                    },
                },
            }
        },
    }
