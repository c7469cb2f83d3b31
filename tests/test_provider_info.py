"""What Airflow is told about this package, by Airflow's own schema."""

from __future__ import annotations

import json
from importlib import import_module, metadata
from pathlib import Path

import airflow
import jsonschema
import pytest

from airflow_provider_segmind.get_provider_info import CONNECTION_FIELDS, FIELD_BEHAVIOUR, get_provider_info
from airflow_provider_segmind.hooks.segmind import SegmindHook


def test_the_provider_info_fits_the_schema_of_this_airflow() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_the_name_is_the_one_of_the_distribution() -> None:
    assert metadata.metadata("airflow-provider-segmind")["Name"] == get_provider_info()["package-name"]


def test_every_module_that_is_named_can_be_imported() -> None:
    info = get_provider_info()
    for room in ("hooks", "operators", "sensors", "triggers"):
        for entry in info[room]:
            for module in entry["python-modules"]:
                import_module(module)
    path, _, name = info["connection-types"][0]["hook-class-name"].rpartition(".")
    assert getattr(import_module(path), name) is SegmindHook


def test_old_and_new_airflow_show_the_same_form() -> None:
    behaviour = SegmindHook.get_ui_field_behaviour()
    assert behaviour["hidden_fields"] == FIELD_BEHAVIOUR["hidden-fields"]
    assert set(FIELD_BEHAVIOUR["placeholders"]) - {"password", "host"} <= set(CONNECTION_FIELDS)
    pytest.importorskip("flask_appbuilder")
    assert SegmindHook.get_connection_form_widgets().keys() == CONNECTION_FIELDS.keys()
