"""What Airflow is told about this package, by Airflow's own schema."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path

import airflow
import jsonschema
import pytest

from airflow_provider_segmind.get_provider_info import CONNECTION_FIELDS, FIELD_BEHAVIOUR, get_provider_info
from airflow_provider_segmind.hooks.segmind import SegmindHook


def test_the_provider_info_matches_the_schema_of_this_airflow() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_the_package_name_is_that_of_the_distribution() -> None:
    assert metadata.metadata("airflow-provider-segmind")["Name"] == get_provider_info()["package-name"]


def test_every_module_that_is_named_can_be_imported() -> None:
    info = get_provider_info()
    for room in ("hooks", "operators", "sensors", "triggers"):
        for entry in info[room]:
            for module in entry["python-modules"]:
                import_module(module)
    path, _, name = info["connection-types"][0]["hook-class-name"].rpartition(".")
    assert getattr(import_module(path), name) is SegmindHook


PUBLIC = {
    "operators.request": {"SegmindSubmitOperator", "SegmindResultOperator", "SegmindRunOperator"},
    "operators.chat": {"SegmindChatOperator"},
    "operators.enrich": {"SegmindEnrichFileOperator", "SegmindEnrichSqlOperator", "SegmindMergeOperator"},
    "sensors.request": {"SegmindRequestSensor"},
    "triggers.request": {"SegmindRequestTrigger"},
    "hooks.segmind": {"SegmindHook"},
    "decorators.chat": {"segmind_task"},
    "emulator": {"SegmindEmulator"},
    "exceptions": {"SegmindError"},
}


def test_each_class_is_where_the_docs_import_it_from() -> None:
    for path, names in PUBLIC.items():
        module = import_module(f"airflow_provider_segmind.{path}")
        assert {name for name in names if not hasattr(module, name)} == set(), path


def test_parsing_a_dag_with_tables_imports_no_engine_and_no_driver() -> None:
    code = (
        "import sys; import airflow_provider_segmind.operators.enrich\n"
        "heavy = ('.enrichment.engine', '.enrichment.sql', '.client.client', '.hooks')\n"
        "ours = [name.removeprefix('airflow_provider_segmind') for name in sys.modules if 'segmind' in name]\n"
        "print([name for name in ours if name.startswith(heavy)], 'pyarrow' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip().splitlines()[-1] == "[] False"


def test_old_and_new_airflow_show_the_same_form() -> None:
    behaviour = SegmindHook.get_ui_field_behaviour()
    assert behaviour["hidden_fields"] == FIELD_BEHAVIOUR["hidden-fields"]
    assert set(FIELD_BEHAVIOUR["placeholders"]) - {"password", "host"} <= set(CONNECTION_FIELDS)
    pytest.importorskip("flask_appbuilder")
    assert SegmindHook.get_connection_form_widgets().keys() == CONNECTION_FIELDS.keys()
