"""The reference has every option, extra, key, field and column, and no other."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

from airflow_provider_segmind.client.submission import RequestRef, ResultManifest
from airflow_provider_segmind.enrichment.dead_letters import DeadLetter
from airflow_provider_segmind.enrichment.manifest import Manifest
from airflow_provider_segmind.enrichment.output import FINGERPRINT_COLUMN, ROW_COLUMN, STATUS_COLUMNS
from airflow_provider_segmind.get_provider_info import get_provider_info
from airflow_provider_segmind.hooks.connection import EXTRA_FIELDS

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
PACKAGE = ROOT / "airflow_provider_segmind"


def names(page: str, heading: str | None = None, *, column: int = 1) -> set[str]:
    """Return the names in a column of the tables below a heading, up to the next one of its level."""
    text = (REFERENCE / page).read_text()
    if heading is not None:
        text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    cells = [row[column - 1].removeprefix("| ") for row in rows if len(row) >= column]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_the_page_of_the_configuration_has_every_option_and_its_default() -> None:
    options = get_provider_info()["config"]["segmind"]["options"]
    page = (REFERENCE / "configuration.md").read_text().partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, flags=re.MULTILINE))

    assert rows == {name: option["default"] or "empty" for name, option in options.items()}


def test_the_page_of_the_connection_has_every_extra_field() -> None:
    listed = names("connection.md")

    assert listed >= set(EXTRA_FIELDS)
    assert {name for name in listed if re.fullmatch(r"\w+", name)} == {"password", "host", *EXTRA_FIELDS}


def test_every_field_of_a_request_and_of_manifests_is_described() -> None:
    request = RequestRef("r", model="m", submitted_at=0.0, submitted_by={"dag_id": "d"})

    assert names("data.md", "A request") == set(request.to_json())
    assert names("data.md", "The manifest of a result") == set(ResultManifest(request_id="r", uris=("u",)).to_json())
    assert names("data.md", "The manifest of a table") == set(Manifest(run_id="r", model="m").to_json())
    assert names("data.md", "Dead letters") == set(DeadLetter.__slots__)


def test_every_column_of_an_output_is_described() -> None:
    assert names("data.md", "Columns of an output") == {*STATUS_COLUMNS, ROW_COLUMN, FINGERPRINT_COLUMN}


def test_every_key_that_is_pushed_to_xcom_is_described() -> None:
    sources = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    reuse = sources.partition("    def reuse(self, answer")[2].partition("\n    def ")[0]
    pushed = {
        *re.findall(r'push\([^\n]*\bkey="(\w+)"', sources),
        *re.findall(r'^TABLE_KEY = "(\w+)"', sources, re.MULTILINE),
    }
    pushed |= set(re.findall(r'\("(\w+)", ', reuse)) | set(re.findall(r'_xcom_push\(context\)\(key="(\w+)"', sources))

    assert {"request_id", "reused", "segmind_table", "return_value", "estimate"} <= pushed
    assert names("data.md", "XCom keys") == pushed


def payload_fields(tree: ast.AST) -> set[str]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Payload"]
    return {str(word.arg) for call in calls for word in call.keywords}


def test_every_field_of_an_event_is_described() -> None:
    events = ast.parse((PACKAGE / "triggers" / "events.py").read_text())
    (to_json,) = (node for node in ast.walk(events) if isinstance(node, ast.FunctionDef) and node.name == "to_json")
    fields = {
        node.value for node in ast.walk(to_json) if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    sent = {name for name in fields if re.fullmatch(r"\w+", name)} - {"success"} | payload_fields(to_json)
    paths = (PACKAGE / "triggers" / f"{name}.py" for name in ("request", "spending"))
    triggers = ast.Module([node for path in paths for node in ast.parse(path.read_text()).body], type_ignores=[])
    public = {node.name for node in triggers.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")}

    assert names("data.md", "Events of triggers", column=2) == sent | payload_fields(triggers)
    assert names("data.md", "Events of triggers") == public


def test_the_page_of_metrics_has_metrics_of_the_code() -> None:
    sources = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    listed = {name.removeprefix("segmind.").removesuffix("OUTCOME") for name in names("observability.md", "Metrics")}

    assert {"submits", "rows.", "in_flight", "poller.lag_ms"} <= listed
    assert [name for name in listed if f'"{name}' not in sources] == []


def test_every_extra_is_described() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert names("configuration.md", "Extras") == set(project["optional-dependencies"])
