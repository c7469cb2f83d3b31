"""The connection form of every supported Airflow, read as its web server reads it, and the Test button."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
from packaging.version import Version

from airflow_provider_segmind.get_provider_info import CONNECTION_FIELDS, FIELD_BEHAVIOUR

if TYPE_CHECKING:
    from airflow_provider_segmind.emulator import SegmindEmulator

pytestmark = pytest.mark.matrix

AIRFLOW = Version(version("apache-airflow")).release
LABELS = {name: field["label"] for name, field in CONNECTION_FIELDS.items()}
DESCRIPTIONS = {name: field["description"] for name, field in CONNECTION_FIELDS.items()}
VARIABLE = "AIRFLOW_CONN_SEGMIND_DEFAULT"
react = pytest.mark.skipif(AIRFLOW < (3,), reason="Airflow 2 renders the form with Flask AppBuilder")
appbuilder = pytest.mark.skipif(AIRFLOW >= (3,), reason="Airflow 3 renders the form with React")


@pytest.fixture(scope="module")
def form() -> Any:
    """The description of the connection type that the API server sends to the React UI."""
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

    (ours,) = [each for each in HookMetaService.hook_meta_data() if each.connection_type == "segmind"]
    return ours


@pytest.fixture(scope="module")
def manager() -> Any:
    from airflow.providers_manager import ProvidersManager

    return ProvidersManager()


@react
def test_the_form_is_named_segmind_and_has_its_hook(form: Any) -> None:
    assert form.hook_name == "Segmind"
    assert form.hook_class_name == "airflow_provider_segmind.hooks.segmind.SegmindHook"


@react
def test_standard_fields_are_hidden_labelled_and_prefilled(form: Any) -> None:
    fields = {name: field for name, field in form.standard_fields.model_dump().items() if field is not None}

    assert {name for name, field in fields.items() if field["hidden"]} == {"url_schema", "login", "port"}
    assert {name: field["title"] for name, field in fields.items() if field["title"]} == FIELD_BEHAVIOUR["relabeling"]
    assert {name: field["placeholder"] for name, field in fields.items() if field["placeholder"]} == {
        name: FIELD_BEHAVIOUR["placeholders"][name] for name in ("password", "host")
    }


@react
def test_every_extra_field_is_in_the_form_with_its_name(form: Any) -> None:
    fields = form.extra_fields

    assert {name: field["schema"]["title"] for name, field in fields.items()} == LABELS
    assert {name: field["description"] for name, field in fields.items()} == DESCRIPTIONS
    assert all("null" in field["schema"]["type"] for field in fields.values())
    numbers = {name for name, field in fields.items() if not {"integer", "number"}.isdisjoint(field["schema"]["type"])}
    assert numbers == {"requests_per_minute", "request_timeout", "max_paid_in_flight"}


@pytest.mark.skipif(AIRFLOW < (3, 3), reason="Airflow before 3.3 imports the hook for the form")
def test_the_form_needs_only_the_provider_info() -> None:
    read = (
        "import sys; from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService as form; "
        "found = [each for each in form.hook_meta_data() if each.connection_type == 'segmind']; "
        "print(len(found[0].extra_fields), 'airflow_provider_segmind.hooks.segmind' in sys.modules)"
    )

    done = subprocess.run([sys.executable, "-c", read], capture_output=True, text=True, check=True, timeout=120)

    assert done.stdout.split()[-2:] == [str(len(LABELS)), "False"]


@appbuilder
def test_flask_appbuilder_renders_every_extra_field(manager: Any) -> None:
    from flask import Flask
    from flask_appbuilder.forms import DynamicForm
    from flask_babel import Babel

    fields = {
        widget.field_name: widget.field
        for name, widget in manager.connection_form_widgets.items()
        if name.startswith("extra__segmind__")
    }
    app = Flask(__name__)
    app.config.update(SECRET_KEY="s", WTF_CSRF_ENABLED=False)
    Babel(app)
    with app.test_request_context():
        shown = type("Form", (DynamicForm,), fields)()

        assert {field.name: str(field.label.text) for field in shown} == LABELS
        assert {field.name: str(field.description) for field in shown} == DESCRIPTIONS
        assert all(f'name="{field.name}"' in str(field()) for field in shown)
        # An empty form is a valid one.
        assert shown.validate()


@appbuilder
def test_flask_appbuilder_hides_labels_and_prefills_fields(manager: Any) -> None:
    behaviour = manager.field_behaviours["segmind"]
    standard = ("password", "host")
    placeholders = FIELD_BEHAVIOUR["placeholders"]

    assert behaviour["hidden_fields"] == FIELD_BEHAVIOUR["hidden-fields"]
    assert behaviour["relabeling"] == FIELD_BEHAVIOUR["relabeling"]
    assert behaviour["placeholders"] == {
        (name if name in standard else f"extra__segmind__{name}"): text for name, text in placeholders.items()
    }
    assert manager.hooks["segmind"].hook_name == "Segmind"


@pytest.mark.parametrize("given", ["connection_json", "connection_uri"])
def test_the_test_button_shows_the_balance_for_both_forms_of_a_connection(
    given: str, segmind_emulator: SegmindEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, getattr(segmind_emulator, given))
    segmind_emulator.set_balance(12.5)

    good, message = connection().test_connection()

    assert (good, "Balance: $12.50" in message) == (True, True), message
    assert segmind_emulator.posts() == []


def test_the_test_button_works_for_a_connection_converted_to_a_uri(
    segmind_emulator: SegmindEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled = connection()
    monkeypatch.setenv(VARIABLE, filled.get_uri())

    again = connection()

    assert again.extra_dejson == filled.extra_dejson
    assert again.test_connection()[0]


def test_the_test_button_shows_the_error_without_the_key(
    segmind_emulator: SegmindEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmind_emulator.settings(api_keys=["SG_other"])

    good, message = connection().test_connection()

    assert (good, "check the API key" in message, segmind_emulator.api_key in message) == (False, True, False)


def connection() -> Any:
    """Return the connection as the web server has it when a user presses the button."""
    from airflow.models import Connection

    from airflow_provider_segmind.compat import BaseHook

    given = BaseHook.get_connection("segmind_default")
    fields = ("conn_id", "conn_type", "host", "schema", "login", "password", "port", "extra")
    return Connection(**{name: getattr(given, name) for name in fields})
